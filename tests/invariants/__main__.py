"""`python -m tests.invariants POSTGRES_URL`: check a database by hand."""

import asyncio
import sys

from tests.invariants.check import violations

if __name__ == "__main__":
    found = asyncio.run(violations(sys.argv[1]))
    print("\n".join(found) or "everything holds")
    sys.exit(bool(found))
