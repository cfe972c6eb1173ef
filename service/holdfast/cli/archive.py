"""`holdfast archive`: what was archived, archiving now, and bringing runs back. Works on the database, not the bus."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holdfast import config as settings
from holdfast.cli.errors import FAILED, NOT_FOUND, Stopped
from holdfast.cli.output import Format, emit, format_option, say

if TYPE_CHECKING:
    from holdfast.store import Store

T = TypeVar("T")
COLUMNS = ("workflow_id", "workflow_type", "status", "closed", "archived", "archive_uri")

namespace_option = click.option(
    "--namespace",
    "-n",
    envvar="HOLDFAST_NAMESPACE",
    default="main",
    show_default=True,
    help="Where the workflows live.",
)


@click.group()
def archive() -> None:
    """Move histories of closed runs to the archive, and back.

    Needs HOLDFAST_POSTGRES_URL and, but for `list`, HOLDFAST_ARCHIVE_URL: the same that the service has.
    """


@archive.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most."
)
@namespace_option
@format_option
def list_(limit: int, namespace: str, output: Format) -> None:
    """The runs that were archived, the latest first."""
    config = settings.load(needs=("postgres_url",))

    async def work(store: Store) -> list[dict[str, Any]]:
        from holdfast.store import retention

        rows = await retention.list_archived(store.pool, namespace, limit)
        return [
            {
                "workflow_id": row.workflow_id,
                "run_id": row.run_id,
                "workflow_type": row.workflow_type,
                "status": row.status,
                "closed": datetime.fromtimestamp(row.closed_at, UTC),
                "archived": datetime.fromtimestamp(row.archived_at, UTC),
                "archive_uri": row.archive_uri,
            }
            for row in rows
        ]

    emit(_with_store(config, work), output, columns=COLUMNS)


@archive.command()
@format_option
def run(output: Format) -> None:
    """Archive now what is past its namespace's retention; the service does the same by itself."""
    config = settings.load(needs=("postgres_url", "archive_url"))

    async def work(store: Store) -> int:
        from holdfast.archive import open_archive
        from holdfast.engine.archiver import Archiver
        from holdfast.metrics import Metrics

        archiver = Archiver(
            store.pool,
            open_archive(config.archive_url),
            Metrics(),
            name=f"{socket.gethostname()}-{os.getpid()} by hand",
            retention_s=config.retention_s,
            on_archived=lambda: None,  # The service's relay looks by itself.
        )
        total = 0
        while archived := await archiver.step():
            total += archived
        if archiver.problem is not None:
            raise archiver.problem
        return total

    total = _with_store(config, work)
    say(f"Archived {total} runs.", {"archived": total}, output)


@archive.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--run-id", "-r", help="This run instead of the newest of the id.")
@namespace_option
@format_option
def restore(workflow_id: str, run_id: str | None, namespace: str, output: Format) -> None:
    """Write an archived run's rows back to Postgres; its file stays.

    If the run is past its namespace's retention, the service archives it again.
    """
    config = settings.load(needs=("postgres_url", "archive_url"))

    async def work(store: Store) -> dict[str, Any]:
        from holdfast.archive import open_archive
        from holdfast.store.contract import archiving
        from holdfast.wire import bundle

        found = await store.get_workflow(workflow_id, namespace=namespace, run_id=run_id)
        if found is None or found.archive_uri is None:
            what, code = ("was not archived", FAILED) if found else ("is not there", NOT_FOUND)
            raise Stopped(
                f"workflow {workflow_id!r} {what}, in namespace {namespace!r}", code, "holdfast archive list"
            )
        data = await open_archive(config.archive_url).get(found.archive_uri)
        await archiving.restore(store, bundle.unpack(data))
        return {"workflow_id": workflow_id, "run_id": found.run_id, "archive_uri": found.archive_uri}

    record = _with_store(config, work)
    say(f"Restored {workflow_id}, run {record['run_id']}.", record, output)


def _with_store(config: settings.Config, work: Callable[[Store], Awaitable[T]]) -> T:
    """What *work* returns, given a store that is closed afterwards."""

    async def connected() -> T:
        from holdfast.store import Store

        async with await Store.connect(config.postgres_url) as store:
            return await work(store)

    return asyncio.run(connected())
