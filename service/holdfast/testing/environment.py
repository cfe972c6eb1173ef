"""Environments for testing workflows: the engine in memory with skipped time, or a whole Holdfast in this process.

What a whole one needs (the extras `server` and `embedded`) is imported when one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from holdfast.client import Client
from holdfast.config import Address, Config
from holdfast.converter import DataConverter
from holdfast.exceptions import Invalid

if TYPE_CHECKING:
    from holdfast import app
    from holdfast.testing.skipping import Skipper

_READY_S = 20.0
_WITHOUT_EFFECT = frozenset(
    {
        "download_dest_dir",
        "port",
        "retry_config",
        "rpc_metadata",
        "runtime",
        "test_server_download_ttl",
        "test_server_download_version",
        "test_server_existing_path",
        "test_server_extra_args",
        "tls",
    }
)


class WorkflowEnvironment:
    """A place where workflows run under test; end it with `shutdown`.

    Make one with `start_time_skipping`, `start_local` or `from_client`.

    As an async context manager it shuts down at the end of the block.
    """

    def __init__(
        self,
        client: Client,
        *,
        address: str = "",
        postgres_url: str = "",
        nats_url: str = "",
        http_url: str = "",
        parts: app.Parts | None = None,
        resources: AsyncExitStack | None = None,
    ) -> None:
        self._client = client
        self.address = address
        """Where other processes connect their clients and workers: `Client.connect(env.address)`."""
        self.postgres_url = postgres_url
        self.nats_url = nats_url
        self.http_url = http_url
        self.parts = parts
        """The service that runs in this process, for tests of the service itself; None if it runs elsewhere."""
        self._resources = resources or AsyncExitStack()

    @staticmethod
    async def start_time_skipping(
        *,
        namespace: str = "main",
        data_converter: DataConverter = DataConverter.default,
        identity: str | None = None,
        **without_effect: Any,
    ) -> WorkflowEnvironment:
        """An engine in this process, on nothing but memory, whose time is skipped while somebody waits.

        While a result or `sleep` is awaited and no workflow or activity is being worked on, time jumps to the next
        moment at which something happens. Otherwise it passes as it does everywhere. `client` is the only way in.
        """
        _tell_without_effect(without_effect)
        from holdfast.testing.starting import skipping

        namespace = "main" if namespace == "default" else namespace
        identity = identity or f"{os.getpid()}@{socket.gethostname()}"
        resources = AsyncExitStack()
        try:
            skipper = await resources.enter_async_context(skipping(datetime.now(UTC).timestamp(), namespace))
        except BaseException:
            await resources.aclose()
            raise
        client = _Guest(skipper.rpc(namespace), data_converter=data_converter, identity=identity)
        return _Skipping(client, skipper, resources)

    @staticmethod
    async def start_local(
        *,
        data: str | os.PathLike[str] | None = None,
        namespace: str = "main",
        data_converter: DataConverter = DataConverter.default,
        identity: str | None = None,
    ) -> WorkflowEnvironment:
        """A full Holdfast: embedded Postgres and NATS, and the service in this process.

        *data* None keeps nothing and does not wait for the disk; a folder makes it durable. Raises
        `holdfast.dev.DevError` when the servers cannot run here, saying why.
        """
        from holdfast.dev import embedded
        from holdfast.store.migrate import migrate

        resources = AsyncExitStack()
        try:
            stack = await resources.enter_async_context(embedded(data))
            await migrate(stack.postgres_url)
            environment = await resources.enter_async_context(
                service_on(stack.postgres_url, stack.nats_url, namespace, data_converter, identity)
            )
        except BaseException:
            await resources.aclose()
            raise
        environment._resources = resources
        return environment

    @staticmethod
    def from_client(client: Client) -> WorkflowEnvironment:
        """An environment on a service that runs elsewhere; `shutdown` leaves *client* open."""
        return WorkflowEnvironment(client)

    @property
    def client(self) -> Client:
        """A client of the environment."""
        return self._client

    async def connect(
        self,
        *,
        namespace: str | None = None,
        data_converter: DataConverter | None = None,
        identity: str | None = None,
    ) -> Client:
        """Another client of the environment; what is not given is as in `client`. Raises `Invalid` after `from_client`."""
        if not self.address:
            raise Invalid(
                "the environment was made from a client: connect another one where that one is connected"
            )
        return await Client.connect(
            self.address,
            namespace=namespace or self._client.namespace,
            data_converter=data_converter or self._client.data_converter,
            identity=identity or self._client.identity,
        )

    @property
    def supports_time_skipping(self) -> bool:
        """Whether time moves by itself while a result is awaited: not here, time is real."""
        return False

    async def sleep(self, duration: timedelta | float) -> None:
        """Wait for *duration* (seconds if a number)."""
        await asyncio.sleep(duration.total_seconds() if isinstance(duration, timedelta) else duration)

    async def get_current_time(self) -> datetime:
        """The environment's time: here, this machine's."""
        return datetime.now(UTC)

    @contextlib.contextmanager
    def auto_time_skipping_disabled(self) -> Iterator[None]:
        """Within, time is not skipped while a result is awaited; `sleep` still skips where time can be skipped."""
        yield

    async def shutdown(self) -> None:
        """End what was started for the environment. May be called again."""
        await self._resources.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()


class _Guest(Client):
    """A client on a bus that belongs to its environment."""

    async def close(self) -> None:
        """Nothing: the environment's `shutdown` ends the bus."""


class _Skipping(WorkflowEnvironment):
    """An environment whose time is its own."""

    def __init__(self, client: Client, skipper: Skipper, resources: AsyncExitStack) -> None:
        super().__init__(client, resources=resources)
        self._skipper = skipper

    async def connect(
        self,
        *,
        namespace: str | None = None,
        data_converter: DataConverter | None = None,
        identity: str | None = None,
    ) -> Client:
        """As `WorkflowEnvironment.connect`."""
        known = self._client
        return _Guest(
            self._skipper.rpc(namespace or known.namespace),
            data_converter=data_converter or known.data_converter,
            identity=identity or known.identity,
        )

    @property
    def supports_time_skipping(self) -> bool:
        """Yes."""
        return True

    async def sleep(self, duration: timedelta | float) -> None:
        """Let *duration* (seconds if a number) pass, without waiting for more than is worked on meanwhile."""
        await self._skipper.sleep(duration.total_seconds() if isinstance(duration, timedelta) else duration)

    async def get_current_time(self) -> datetime:
        """The time that workflows see."""
        return datetime.fromtimestamp(self._skipper.now, UTC)

    @contextlib.contextmanager
    def auto_time_skipping_disabled(self) -> Iterator[None]:
        """Within, time passes as it does everywhere while a result is awaited; `sleep` still skips."""
        with self._skipper.disabled():
            yield


def _tell_without_effect(given: dict[str, Any]) -> None:
    if unknown := sorted(set(given) - _WITHOUT_EFFECT):
        raise TypeError(f"start_time_skipping() got an unexpected keyword argument {unknown[0]!r}")
    if given:
        warnings.warn(
            f"start_time_skipping: {', '.join(sorted(given))} have no meaning for Holdfast and are ignored",
            stacklevel=3,
        )


@contextlib.asynccontextmanager
async def service_on(
    postgres_url: str,
    nats_url: str,
    namespace: str = "main",
    data_converter: Any = None,
    identity: str | None = None,
) -> AsyncIterator[WorkflowEnvironment]:
    """The service in this process, on servers that run already, with a client of it, while the block lasts."""
    from holdfast import app

    config = Config(
        postgres_url=postgres_url,
        nats_url=nats_url,
        http=Address("127.0.0.1", 0),
        ops=Address("127.0.0.1", 0),
    )
    async with app.running(config, roles=frozenset({"engine", "api"})) as parts:
        async with asyncio.timeout(_READY_S):
            await parts.is_serving.wait()
        client = await Client.connect(
            nats_url,
            namespace=namespace,
            data_converter=data_converter or DataConverter.default,
            identity=identity,
        )
        try:
            yield WorkflowEnvironment(
                client,
                address=nats_url,
                postgres_url=postgres_url,
                nats_url=nats_url,
                http_url=f"http://{parts.addresses['http']}",
                parts=parts,
            )
        finally:
            await client.close()
