"""Postgres and NATS for `holdfast dev`, tests and notebooks: one data folder, two servers, one file that tells where.

Runs bare servers; the service processes on top of them are the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import msgspec

from holdfast.dev.binaries import find_nats
from holdfast.dev.errors import DevError, PortTaken
from holdfast.dev.folder import Endpoints, ProcessState, State, claimed, endpoints, erase, write_state
from holdfast.dev.logs import bound
from holdfast.dev.nats import Nats
from holdfast.dev.nats import clear_remains as clear_nats
from holdfast.dev.nats import prepare as prepare_nats
from holdfast.dev.nats import url_of as nats_url_of
from holdfast.dev.postgres import Postgres
from holdfast.dev.postgres import clear_remains as clear_postgres
from holdfast.dev.postgres import prepare as prepare_postgres
from holdfast.dev.postgres import url_of as postgres_url_of
from holdfast.exceptions import Refused

POSTGRES_VARIABLE = "HOLDFAST_POSTGRES_URL"
NATS_VARIABLE = "HOLDFAST_NATS_URL"
PORT_TRIES = 5

Server = Postgres | Nats


class Stack:
    """A running stack: `data` is its folder, `logs` the folder with one log per role, `servers` what is embedded.

    The embedded servers can be killed, stopped and started at will. They keep their ports, so clients find them again.
    """

    def __init__(self, data: Path, state: State, servers: Sequence[Server]) -> None:
        self.data = data
        self.logs = data / "logs"
        self.servers: Sequence[Server] = [
            server for kind in (Postgres, Nats) for server in servers if isinstance(server, kind)
        ]
        self._state = state

    @property
    def postgres_url(self) -> str:
        """The database, password included: postgresql://user:password@host:port/name."""
        return self._state.postgres_url

    @property
    def nats_url(self) -> str:
        """The bus, password included: nats://user:password@host:port. `Client.connect` takes it whole."""
        return self._state.nats_url

    @property
    def state(self) -> State:
        """What `state.json` tells."""
        return self._state

    @property
    def postgres(self) -> Postgres:
        """The embedded Postgres. Raises `Refused` when a server of your own is used in its place."""
        for server in self.servers:
            if isinstance(server, Postgres):
                return server
        raise Refused(f"Postgres is not embedded here: {POSTGRES_VARIABLE} names the server in use")

    @property
    def nats(self) -> Nats:
        """The embedded NATS. Raises `Refused` when a server of your own is used in its place."""
        for server in self.servers:
            if isinstance(server, Nats):
                return server
        raise Refused(f"NATS is not embedded here: {NATS_VARIABLE} names the server in use")

    @property
    def postgres_user(self) -> str | None:
        """Whom Postgres runs as because we are root; None if it runs as ourselves or is not embedded."""
        accounts = [server.account for server in self.servers if isinstance(server, Postgres)]
        return accounts[0].name if accounts and accounts[0] is not None else None

    def tell(self, *, http_url: str | None = None, ops_url: str | None = None) -> None:
        """Add addresses to `state.json`; None leaves one as it was."""
        self._change(http_url=http_url or self._state.http_url, ops_url=ops_url or self._state.ops_url)

    def tell_processes(self, others: Iterable[ProcessState] = ()) -> None:
        """Put the processes of the stack into `state.json`: this one, the embedded servers, and *others*."""
        running = ((server.role, server.pid) for server in self.servers)
        servers = [ProcessState(role, pid) for role, pid in running if pid is not None]
        self._change(processes=(ProcessState("dev", os.getpid()), *servers, *others))

    def _change(self, **fields: object) -> None:
        self._state = msgspec.structs.replace(self._state, **fields)
        write_state(self.data, self._state)


@contextlib.asynccontextmanager
async def embedded(
    data: str | os.PathLike[str] | None = None, migrate: bool = False, *, postgres_major: int | None = None
) -> AsyncIterator[Stack]:
    """A running Postgres and NATS; both are gone when the block ends or this process dies in any way.

    *data* None: temporary, without fsync, removed at the end. A folder: what was acknowledged is there again next time.
    With *migrate* the database has this version's schema. `HOLDFAST_POSTGRES_URL` and `HOLDFAST_NATS_URL` put a
    server of your own in the place of an embedded one. *postgres_major* chooses among the versions installed.
    Raises `DevError`: the folder is unusable or in use, programs are missing, a server does not start.
    """
    with claimed(None if data is None else Path(data)) as folder:
        chosen, servers = await _start(folder, data is not None, postgres_major)
        try:
            stack = Stack(folder, _state(chosen), servers)
            if migrate:
                # Imported late: without it, bare servers need no database driver.
                from holdfast.store.migrate import migrate as apply_migrations

                await apply_migrations(stack.postgres_url)
            stack.tell_processes()
            yield stack
        finally:
            (folder / "state.json").unlink(missing_ok=True)
            await _stop(servers)


async def reset(data: str | os.PathLike[str]) -> None:
    """Remove everything a stack keeps in folder *data*. Raises `DevError` while a stack runs on it."""
    with claimed(Path(data)) as folder:
        await clear_postgres(folder / "postgres")
        await clear_nats(folder / "nats")
        erase(folder)


async def _start(
    folder: Path, is_durable: bool, postgres_major: int | None
) -> tuple[Endpoints, list[Server]]:
    """Start the servers side by side. A port that somebody takes at the last moment is replaced by another."""
    logs = folder / "logs"
    try:
        logs.mkdir(exist_ok=True)
        bound(logs)
    except OSError as error:
        raise DevError(f"cannot write to {logs}: {error.strerror}") from error
    tries = 0
    while True:
        tries += 1
        chosen = endpoints(folder)
        servers: list[Server] = []
        try:
            parts = []
            if not os.environ.get(POSTGRES_VARIABLE):
                parts.append(_start_postgres(servers, folder, chosen, is_durable, postgres_major))
            if not os.environ.get(NATS_VARIABLE):
                parts.append(_start_nats(servers, folder, chosen, is_durable))
            for outcome in await asyncio.gather(*parts, return_exceptions=True):
                if outcome is not None:
                    raise outcome
        except PortTaken:
            await _stop(servers)
            if tries == PORT_TRIES:
                raise
        except BaseException:
            await _stop(servers)
            raise
        else:
            return chosen, servers


async def _start_postgres(
    servers: list[Server], folder: Path, chosen: Endpoints, is_durable: bool, major: int | None
) -> None:
    server = await prepare_postgres(
        folder / "postgres",
        log=folder / "logs" / "postgres.log",
        port=chosen.postgres_port,
        password=chosen.postgres_password,
        is_durable=is_durable,
        major=major,
    )
    servers.append(server)
    await server.start()


async def _start_nats(servers: list[Server], folder: Path, chosen: Endpoints, is_durable: bool) -> None:
    server = prepare_nats(
        folder / "nats",
        log=folder / "logs" / "nats.log",
        port=chosen.nats_port,
        password=chosen.nats_password,
        program=find_nats(),
        is_durable=is_durable,
    )
    servers.append(server)
    await server.start()


async def _stop(servers: Iterable[Server]) -> None:
    outcomes = await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def _state(chosen: Endpoints) -> State:
    nats_url = os.environ.get(NATS_VARIABLE) or nats_url_of(chosen.nats_port, chosen.nats_password)
    return State(
        pid=os.getpid(),
        project=str(Path.cwd()),
        address=nats_url,
        postgres_url=os.environ.get(POSTGRES_VARIABLE)
        or postgres_url_of(chosen.postgres_port, chosen.postgres_password),
        nats_url=nats_url,
    )
