"""Becomes a program that must not outlive the process that asked for it.

Run as a script in the new process, before the program: `python -I -S guard.py ORDER PROGRAM ARG...`. It drops to
another user where told, arranges that the kernel ends the program when the asking process dies, and
then becomes the program (same pid). Where no kernel does that, it stays as the program's parent instead and
watches a pipe whose other end dies with the asking process.

Must import nothing but the standard library, and nothing at all after the user has changed: the
interpreter may lie where that user cannot read.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
LOOK_S = 0.05
LAST_S = 6.0
"""How long the program may take to die of its signal before it is killed; Postgres gives its backends 5 s."""


def order(parent: int, death_signal: int, uid: int = -1, gid: int = -1, lifeline: int = -1) -> str:
    """The first argument of this script.

    *lifeline* is a file descriptor whose end of file means that the asking process is gone; -1 leaves the watch
    to the kernel. *uid* and *gid* -1 keep the user.
    """
    return ":".join(map(str, (parent, death_signal, uid, gid, lifeline)))


def main() -> None:
    """Never returns: becomes the program, or ends as it ended."""
    parent, death_signal, uid, gid, lifeline = map(int, sys.argv[1].split(":"))
    program = sys.argv[2:]
    if lifeline >= 0:
        _watch(program, death_signal, uid, gid, lifeline)
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    _become(uid, gid)
    # After the change of user: the kernel forgets the signal when credentials change.
    prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    # The asking process may have died before the line above. It is compared by its own id, never with 1:
    # orphans go to the nearest subreaper, and in a container the asking process may itself be 1.
    if os.getppid() != parent:
        sys.exit("the process that asked for this program is gone")
    _run(program)


def _become(uid: int, gid: int) -> None:
    if uid < 0:
        return
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        sys.exit(f"cannot become user {uid}:{gid}: {error.strerror}")


def _run(program: list[str]) -> None:
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


def _watch(program: list[str], death_signal: int, uid: int, gid: int, lifeline: int) -> None:
    """Run the program as a child, pass signals on to it, and end it when the lifeline breaks."""
    import select
    import signal
    import time

    _become(uid, gid)
    child = os.fork()
    if child == 0:
        os.close(lifeline)
        _run(program)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: os.kill(child, got))
    give_up = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
        if give_up is None:
            broken, _, _ = select.select([lifeline], [], [], LOOK_S)
            if broken:
                os.kill(child, death_signal)
                give_up = time.monotonic() + LAST_S
        else:
            time.sleep(LOOK_S)
            if time.monotonic() > give_up:
                os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
