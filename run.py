"""Set everything up and start Holdfast, on a machine that has nothing but Python.

`python3 run.py [options of holdfast dev]` starts the whole system and its demo;
`python3 run.py test [arguments of pytest]` runs the test suite. Both first make `.venv` beside this file, if it is
missing or out of date. Standard library only, and only what is quick to import: a second start must cost nothing.
It decides nothing about Holdfast itself; that is the business of `holdfast dev`.
"""

import hashlib
import os
import subprocess
import sys
import time
from contextlib import contextmanager

NEEDED = (3, 11)
ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "holdfast-stamp")
LOCK = os.path.join(ROOT, ".venv.lock")

# What each of the two commands needs. The test suite's packages contain the system's, at the same versions.
REQUIREMENTS = {"dev": "requirements.lock", "test": "requirements-test.lock"}

# Two tests at a time, because one may start a whole system; tests that share a group stay in one process.
PYTEST = ["-m", "pytest", "-n", "2", "--dist", "loadgroup"]


def machine_fault(version, platform):
    """One sentence saying why Holdfast cannot run here, or "" if it can.

    This much of the file must be readable by any Python 3.
    """
    if platform == "win32":
        return "Holdfast runs on Linux and macOS. On Windows, run this command inside WSL 2."
    if tuple(version[:2]) < NEEDED:
        return (
            f"Holdfast needs Python {NEEDED[0]}.{NEEDED[1]} or newer, and this is {version[0]}.{version[1]} "
            f"({sys.executable}). Run this file with a newer one, for example: python3.12 run.py"
        )
    return ""


def main(argv):
    """Never returns: ends as `holdfast dev`, as pytest, or with a sentence saying what went wrong."""
    fault = machine_fault(sys.version_info, sys.platform)
    if fault:
        sys.exit(fault)
    goal = "test" if argv[:1] == ["test"] else "dev"
    try:
        make_ready(goal)
    except KeyboardInterrupt:
        sys.exit("Setup interrupted. The same command starts it afresh.")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(setup_fault(error))
    os.chdir(ROOT)
    sys.stdout.flush()
    sys.stderr.flush()
    if goal == "test":
        os.execv(PYTHON, [PYTHON, *PYTEST, *argv[1:]])
    holdfast = os.path.join(VENV, "bin", "holdfast")
    os.execv(holdfast, [holdfast, "dev", *argv])


def make_ready(goal):
    """Return when `.venv` holds what *goal* needs, at the versions in the lock files.

    Any number of processes may ask at once; one installs, the others wait for it. An installation that is cut short
    leaves no stamp, and the next start begins again from an empty `.venv`.
    """
    wanted = fingerprint()
    if is_ready(goal, wanted):
        return
    with only_one():
        if is_ready(goal, wanted):
            return
        began = time.monotonic()
        say(f"Setting up {VENV} (once; some seconds, more on a slow line).")
        # The tests' packages only add to the system's; everything else starts from nothing.
        if not is_ready("dev", wanted):
            make_venv()
            install(REQUIREMENTS[goal])
            install_project()
        else:
            os.remove(STAMP)
            install(REQUIREMENTS[goal])
        write_stamp(goal, wanted)
        say(f"Ready after {time.monotonic() - began:.1f} s.")


def fingerprint():
    """Text that changes whenever `.venv` has to be made anew."""
    digest = hashlib.sha256()
    for name in ("requirements.lock", "requirements-test.lock", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    # Scripts in a virtual environment hold its path: one that was copied or moved is of no use.
    digest.update(f"{sys.implementation.cache_tag} {sys.version_info[:3]} {ROOT}".encode())
    return digest.hexdigest()


def is_ready(goal, wanted):
    """Whether the stamp tells of a finished installation of *wanted* that covers *goal*."""
    try:
        with open(STAMP, encoding="ascii") as file:
            found, level = file.read().split()
    except (OSError, ValueError):
        return False
    # The interpreter is a link to one outside, which may have been removed since.
    return found == wanted and level in (goal, "test") and os.access(PYTHON, os.X_OK)


def write_stamp(goal, wanted):
    """Record a finished installation; the stamp appears whole or not at all."""
    draft = STAMP + ".new"
    with open(draft, "w", encoding="ascii") as file:
        file.write(f"{wanted} {goal}\n")
    os.replace(draft, STAMP)


@contextmanager
def only_one():
    """Hold the setup lock of this tree. The system frees it when the holder dies, however it dies."""
    import fcntl

    with open(LOCK, "w", encoding="ascii") as file:
        # Inherited by pip, so that one which outlives a killed run.py keeps the next from working beside it.
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another run.py is setting up here; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_venv():
    """Make an empty `.venv`, with pip in it where this Python can."""
    # Run from inside .venv, sys.executable is about to be deleted; the interpreter behind it is not.
    python = getattr(sys, "_base_executable", None) or sys.executable
    make = [python, "-m", "venv", "--clear"]
    if run([*make, VENV], check=False, capture_output=True).returncode != 0:
        # Some distributions ship Python without ensurepip; then the pip outside installs into .venv.
        run([*make, "--without-pip", VENV])


def install(requirements):
    """Install exactly the named lock file, every archive checked against its hash."""
    pip_install("--require-hashes", "--requirement", os.path.join(ROOT, requirements))


def install_project():
    """Install this tree itself so that edits take effect; the build backend is in the lock file, so no network."""
    pip_install("--no-index", "--no-build-isolation", "--editable", ROOT)


def pip_install(*what):
    """Run pip for `.venv`, silent unless it fails. A user's own pip configuration (mirrors, proxies) counts."""
    has_own = run([PYTHON, "-c", "import pip"], check=False, capture_output=True).returncode == 0
    pip = [PYTHON, "-m", "pip"] if has_own else [sys.executable, "-m", "pip", "--python", PYTHON]
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_USER": "0",
    }
    # Compiling everything takes longer than importing what is used.
    run([*pip, "install", "-qq", "--no-compile", "--no-deps", *what], env=environment)


def run(command, check=True, **options):
    """The finished process of *command*, which shares the setup lock and has no input."""
    return subprocess.run(command, check=check, stdin=subprocess.DEVNULL, close_fds=False, **options)


def setup_fault(error):
    """The sentence for a setup that failed: what, and what to do."""
    if isinstance(error, subprocess.CalledProcessError):
        return (
            f"Setup failed: `{' '.join(error.cmd)}` ended with {error.returncode}; its reason stands above. "
            "The same command starts it afresh."
        )
    if isinstance(error, PermissionError):
        return (
            f"Setup failed: {error.filename} cannot be written by this user ({error.strerror}). "
            f"Run as the owner of {ROOT}, or from a copy of your own."
        )
    return f"Setup failed: {error}. The same command starts it afresh."


def say(line):
    """Print *line* where it does not mix with the output of what is started."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
