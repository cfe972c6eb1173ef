"""What can go wrong with the embedded stack, told to the person who started it."""

from __future__ import annotations

from typing import ClassVar

from holdfast.exceptions import HoldfastError


class DevError(HoldfastError):
    """The embedded stack cannot be started or kept up here. The message says why and what to do."""

    code: ClassVar[str] = "dev_stack"


class PortTaken(DevError):
    """Somebody else listens on the port an embedded server was given."""
