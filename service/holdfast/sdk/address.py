"""Where the bus is: what the caller says, else the environment, else a stack that `holdfast dev` runs here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from holdfast.exceptions import Invalid

ADDRESS_VARIABLE = "HOLDFAST_ADDRESS"
STATE_FILE = "state.json"
SYSTEM_STATE = Path("/var/lib/holdfast")


class DevState(msgspec.Struct):
    """What a dev stack leaves for others to find while `pid` runs. `project` is the directory it was started in."""

    address: str
    project: str = ""
    pid: int = 0


def find_servers(target: str | Sequence[str] | None) -> list[str]:
    """The servers of the bus as URLs or `host:port`, at least one. Raises `Invalid` if nothing says where they are."""
    if target is None:
        target = os.environ.get(ADDRESS_VARIABLE) or find_dev_stack(Path.cwd())
    if target is None:
        raise Invalid(
            "no address of the bus: give Client.connect() one (nats://host:4222), "
            f"set {ADDRESS_VARIABLE}, or start `holdfast dev` in this directory"
        )
    parts = target.split(",") if isinstance(target, str) else target
    servers = [part.strip() for part in parts if part.strip()]
    if not servers:
        raise Invalid(f"the address of the bus is empty ({target!r}): expected nats://host:port or host:port")
    return servers


def find_dev_stack(start: Path) -> str | None:
    """The address of the dev stack whose data lies in *start* or nearest above it; None if there is none."""
    for path in _state_files(start):
        try:
            state = msgspec.json.decode(path.read_bytes(), type=DevState)
        except (OSError, msgspec.DecodeError):
            # None there, not ours to read, or half written: as good as no stack.
            continue
        if state.pid and not _is_alive(state.pid):
            continue
        if path.is_relative_to(SYSTEM_STATE) and not _is_within(start, state.project):
            continue
        return state.address
    return None


def _state_files(start: Path) -> Iterator[Path]:
    for directory in (start, *start.parents):
        yield directory / ".holdfast" / STATE_FILE
    try:
        yield from sorted(SYSTEM_STATE.glob(f"*/{STATE_FILE}"))
    except OSError:
        return


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is there, and somebody else's.
        return True
    return True


def _is_within(start: Path, project: str) -> bool:
    return bool(project) and (start == Path(project) or Path(project) in start.parents)
