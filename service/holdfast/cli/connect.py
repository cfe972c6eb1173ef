"""How commands reach the service: `--address`, `--namespace` and a client that lives as long as the command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from holdfast.cli.arguments import Duration
from holdfast.cli.errors import USAGE, Stopped
from holdfast.exceptions import Invalid

if TYPE_CHECKING:
    from holdfast.client import Client

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

CALL_S = 10.0
"""A service that is there but does not answer in this time is told to be unreachable or too slow."""


class Target(msgspec.Struct, frozen=True):
    """Which service, and which namespace of it. No address means: what the environment or a dev stack says."""

    address: str | None
    namespace: str
    connect_timeout: timedelta


def target_options(command: Command) -> Command:
    """Give *command* `--address`, `--connect-timeout` and `--namespace` as one argument, `target: Target`."""

    def combined(ctx: click.Context, _: click.Parameter, namespace: str) -> Target:
        return Target(ctx.meta["address"], namespace, ctx.meta["connect_timeout"])

    def remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        ctx.meta[str(param.name)] = value

    address = click.option(
        "--address",
        envvar="HOLDFAST_ADDRESS",
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="The bus, nats://host:port [HOLDFAST_ADDRESS, else the stack `holdfast dev` runs here].",
    )
    connect_timeout = click.option(
        "--connect-timeout",
        type=Duration(),
        default="5s",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="How long to wait for the bus.",
    )
    namespace = click.option(
        "--namespace",
        "-n",
        "target",
        envvar="HOLDFAST_NAMESPACE",
        default="main",
        show_default=True,
        callback=combined,
        help="Where the workflows live.",
    )
    return namespace(address(connect_timeout(command)))


def with_client(target: Target, work: Callable[[Client], Awaitable[T]]) -> T:
    """What *work* returns, given a client of *target* that is closed afterwards. Its errors pass through."""

    async def connected() -> T:
        from holdfast.client import Client

        connecting = Client.connect(
            target.address, namespace=target.namespace, connect_timeout=target.connect_timeout
        )
        try:
            client = await connecting
        except Invalid as error:
            raise Stopped(error.message, USAGE, "holdfast dev") from error
        async with client:
            return await work(client)

    return asyncio.run(connected())
