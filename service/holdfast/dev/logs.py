"""What the parts of a stack say, in one file per role, kept from growing without end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_BYTES_MAX = 8 * 1024 * 1024


def bound(logs: Path, bytes_max: int = LOG_BYTES_MAX) -> int:
    """Move the content of each log over *bytes_max* to `<name>.1`, in place of what was there; how many were.

    The file itself stays, because its process goes on appending to it; a line written at that moment may be lost.
    """
    moved = 0
    for log in logs.glob("*.log"):
        if log.stat().st_size > bytes_max:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
            moved += 1
    return moved
