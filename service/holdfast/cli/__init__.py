"""The `holdfast` command. Each module is one command or one group, imported only when it is asked for."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with the code that tells how it went (see `cli.errors`)."""
    from holdfast.cli.root import run

    sys.exit(run(sys.argv[1:]))
