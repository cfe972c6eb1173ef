"""`holdfast migrate`: bring the database to this version's schema."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import click

from holdfast import config as settings
from holdfast.cli.arguments import Duration
from holdfast.cli.output import Format, emit, format_option
from holdfast.exceptions import Unavailable

RETRY_S = 0.5


@click.command()
@click.option(
    "--wait", "wait", type=Duration(), default="30s", show_default=True, help="How long to wait for Postgres."
)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if something would be applied.")
@format_option
def migrate(wait: timedelta, check: bool, output: Format) -> int:
    """Bring the database of HOLDFAST_POSTGRES_URL to this version's schema.

    Safe to run from many places at once, and again: what was applied stays.
    """
    config = settings.load(needs=("postgres_url",))
    names = asyncio.run(_migrated(config.postgres_url, wait.total_seconds(), check=check))
    emit({"pending" if check else "applied": names}, output)
    return 1 if check and names else 0


async def _migrated(url: str, wait_s: float, *, check: bool) -> list[str]:
    """What was applied (or would be), asking again for up to *wait_s* while Postgres is away."""
    from holdfast.store import migrate as store

    step = store.pending if check else store.migrate
    deadline = time.monotonic() + wait_s
    is_told = False
    while True:
        try:
            return await step(url)
        except Unavailable as error:
            if time.monotonic() >= deadline:
                raise
            if not is_told:
                click.echo(f"{settings.redacted(str(error))}; trying again for {wait_s:g} s", err=True)
                is_told = True
        await asyncio.sleep(RETRY_S)
