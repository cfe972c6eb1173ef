"""How the client's calls are made: converted, given an identity, and their errors told as `RPCError`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from holdfast.converter import DataConverter
from holdfast.exceptions import STATUS_OF_CODE, HoldfastError, RPCError, RPCStatusCode
from holdfast.sdk import memo
from holdfast.sdk.rpc import CALL_TIMEOUT_S, Rpc

UNSET: Any = object()


class Caller:
    """A connection, a converter and a name to call by."""

    def __init__(self, rpc: Rpc, converter: DataConverter, identity: str) -> None:
        self.rpc = rpc
        self.converter = converter
        self.identity = identity

    @property
    def namespace(self) -> str:
        """Where the calls go."""
        return self.rpc.namespace

    async def call(self, verb: str, request: Any, timeout: timedelta | None) -> Any:
        """The answer to *request*. Raises `RPCError` if there is none within *timeout* (30 s), or an error."""
        try:
            return await self.rpc.call(verb, request, timeout.total_seconds() if timeout else CALL_TIMEOUT_S)
        except HoldfastError as error:
            raise rpc_error(error) from error

    async def encode(self, values: Sequence[Any]) -> bytes:
        """The arguments as they travel."""
        return await self.converter.seal(self.converter.encode_args(values))

    async def encode_memo(self, values: Mapping[str, Any] | None) -> bytes:
        """A memo as it travels."""
        return await memo.changed(memo.encoded(self.converter, values), self.converter.seal)


def seconds_of(duration: timedelta | None) -> float | None:
    """Its seconds; None, or nothing at all, means that there is no such limit."""
    return duration.total_seconds() if duration else None


def arguments(arg: Any, more: tuple[Any, ...], args: Sequence[Any]) -> Sequence[Any]:
    """The arguments that were given, in either of the two ways. Raises ValueError if in both."""
    if arg is UNSET:
        return args
    if args:
        raise ValueError("Cannot have arg and args")
    return (arg, *more)


def request_id() -> str:
    """A new key for a call that changes something."""
    return uuid.uuid4().hex


def rpc_error(error: HoldfastError) -> RPCError:
    """A service error as the client's callers see it."""
    status = STATUS_OF_CODE.get(error.code, RPCStatusCode.UNKNOWN)
    made = RPCError(error.message, status, details=error.details)
    made.__cause__ = error
    return made
