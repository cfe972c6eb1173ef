"""`holdfast worker`: run the workflows and activities of a module."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import click

from holdfast import config as settings
from holdfast.cli.arguments import Duration
from holdfast.cli.connect import Target, target_options
from holdfast.cli.discovery import QUEUE_NAME, Found, discover
from holdfast.cli.running import run_until_signal
from holdfast.cli.serve import Listen
from holdfast.exceptions import Invalid

if TYPE_CHECKING:
    from holdfast.client import Client
    from holdfast.worker import Worker

_log = logging.getLogger(__name__)

RETRY_S = 0.5


@click.command()
@click.argument("target_module", metavar="MODULE[:OBJ]")
@click.option("--queue", "-q", "task_queue", help=f"The task queue [the module's {QUEUE_NAME}].")
@click.option("--max-concurrent-activities", type=click.IntRange(1), help="Activities at a time.")
@click.option("--max-concurrent-workflow-tasks", type=click.IntRange(1), help="Workflow tasks at a time.")
@click.option("--max-cached-workflows", type=click.IntRange(0), help="Runs kept in memory between tasks.")
@click.option("--build-id", help="Names this build of the code in histories.")
@click.option(
    "--grace",
    "graceful_shutdown_timeout",
    type=Duration(),
    default="10s",
    show_default=True,
    help="How long running activities have when the worker stops.",
)
@click.option("--ops", type=Listen(), help="Where health and metrics are [nowhere].")
@target_options
def worker(target_module: str, target: Target, ops: settings.Address | None, **given: Any) -> None:
    """Run the workflows and activities of MODULE, or those that its OBJ names.

    OBJ is a list of them, a dict of Worker's arguments, or a function from a client to a Worker.
    The module is looked for in the current directory too. SIGTERM stops in order.
    """
    config = settings.load()
    found = discover(target_module)
    options = found.options | {name: value for name, value in given.items() if value is not None}
    if found.make is None and "task_queue" not in options:
        raise Invalid(
            f"no task queue: give --queue, or set {QUEUE_NAME} in {target_module.partition(':')[0]}"
        )
    run_until_signal(_work(found, options, target, ops), config)


async def _work(found: Found, options: dict[str, Any], target: Target, ops: settings.Address | None) -> None:
    """Work until cancelled, then stop in order."""
    from holdfast.engine.loops import serve

    async with await _connected(target) as client:
        made = _made(found, options, client)
        loops, where = [made.run()], ""
        if ops is not None:
            from holdfast.api.ops import address_of, bind, serve_ops
            from holdfast.cli.worker_ops import exposition_of, probes_of

            sock = bind(ops)
            where = f"  ops http://{address_of(sock)}"
            loops.append(serve_ops(sock, probes_of(made), exposition_of(made)))
        click.echo(f"ready  worker {made.identity}  queue {made.task_queue}{where}")
        await serve(loops, asyncio.Event())


def _made(found: Found, options: dict[str, Any], client: Client) -> Worker:
    from holdfast.worker import Worker

    if found.make is None:
        return Worker(client, workflows=found.workflows, activities=found.activities, **options)
    made = found.make(client)
    if not isinstance(made, Worker):
        raise Invalid(f"{found.make!r} returned a {type(made).__name__}: expected a holdfast.Worker")
    return made


async def _connected(target: Target) -> Client:
    """A client, tried for until the bus is there: a worker may be started before everything else."""
    from holdfast.client import Client
    from holdfast.exceptions import RPCError, RPCStatusCode

    is_told = False
    while True:
        try:
            return await Client.connect(
                target.address, namespace=target.namespace, connect_timeout=target.connect_timeout
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.UNAVAILABLE:
                raise
            if not is_told:
                _log.warning("waiting for the bus: %s", error)
                is_told = True
        await asyncio.sleep(RETRY_S)
