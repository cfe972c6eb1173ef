"""A whole Holdfast on one machine: embedded Postgres and NATS, and the processes of `holdfast dev`.

For development, tests and notebooks; production brings its own servers.
"""

from holdfast.dev.errors import DevError
from holdfast.dev.stack import Stack, embedded

__all__ = ["DevError", "Stack", "embedded"]
