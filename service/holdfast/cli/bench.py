"""`holdfast bench`: throughput, latency and cost of the whole system on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli.errors import FAILED, Stopped
from holdfast.cli.output import Format, as_json, emit, format_option
from holdfast.cli.running import loop_factory

if TYPE_CHECKING:
    from holdfast.bench.measure import Plan
    from holdfast.bench.report import Record
    from holdfast.bench.system import System, Urls

SCENARIOS = ("one", "five", "idle")


@click.command()
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(SCENARIOS),
    multiple=True,
    help="Workflows of one or five activities at full speed, or one at a time; may be repeated [all].",
)
@click.option(
    "--workflows",
    type=click.IntRange(4),
    default=1_000,
    show_default=True,
    help="Workflows in a burst; half as many with five activities, a tenth below 16 in flight.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 64, 256),
    show_default=True,
    help="Workflows at a time; may be repeated.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds of everything; figures are medians. Take 5 or more for figures to quote.",
)
@click.option("--postgres-url", help="A Postgres to measure with, in place of an embedded one.")
@click.option("--nats-url", help="A NATS to measure with, in place of an embedded one.")
@click.option(
    "--json",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write all here.",
)
@format_option
def bench(
    scenarios: tuple[str, ...],
    workflows: int,
    in_flight: tuple[int, ...],
    rounds: int,
    postgres_url: str | None,
    nats_url: str | None,
    file: Path | None,
    output: Format,
) -> None:
    """Measure throughput, latency and CPU of this machine, nothing else should be running.

    Starts Postgres and NATS with durable settings in a temporary folder, one service and one worker process; this
    process is the client. On servers you name, the workflows stay, and HOLDFAST_* URLs are not looked at:
    they may name a database with work in it.
    """
    from holdfast import logs
    from holdfast.bench.measure import Plan
    from holdfast.bench.system import Urls

    logs.configure("warning", "text")
    plan = Plan(tuple(scenarios) or SCENARIOS, tuple(in_flight), workflows, rounds)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        record = runner.run(_run(Urls(postgres_url, nats_url), plan))
    if file is not None:
        _write(file, record)
    _show(record, output)


async def _run(urls: Urls, plan: Plan) -> Record:
    """The record of the measurement. Raises `Abort` when a signal ended it first."""
    from holdfast.bench.report import record_of
    from holdfast.bench.system import conditions, running
    from holdfast.engine.loops import serve

    _tell("starting Postgres, NATS, service and worker")
    records: list[Record] = []
    async with running(urls) as system:
        found = conditions(system)
        stop = asyncio.Event()

        async def measure_all() -> None:
            from holdfast.bench.measure import measure

            records.append(record_of(await measure(system, plan, _tell), found))
            stop.set()

        await serve([measure_all(), _until_signal(system, stop)], stop)
    if not records:
        raise click.Abort
    return records[0]


async def _until_signal(system: System, stop: asyncio.Event) -> None:
    await system.supervisor.wait()
    stop.set()


def _show(record: Record, output: Format) -> None:
    """Tables for people, the record for programs."""
    from holdfast.bench.report import cpu_rows, latency_rows, speed_rows

    if output.name != "table":
        emit(record, output)
        return
    emit(record["conditions"], output)
    for rows in (speed_rows(record), latency_rows(record), cpu_rows(record)):
        if rows:
            emit(rows, output)


def _write(file: Path, record: Record) -> None:
    try:
        file.write_text(as_json(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Stopped(
            f"cannot write {file}: {error.strerror}", FAILED, "holdfast bench --json FILE"
        ) from error


def _tell(step: str) -> None:
    click.echo(step, err=True)
