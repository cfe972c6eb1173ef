"""`holdfast dev`: the whole system on this machine, with a demo to watch and one screen to read."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli.errors import FAILED, Stopped
from holdfast.exceptions import HoldfastError

if TYPE_CHECKING:
    from holdfast.client import Client
    from holdfast.dev import Stack
    from holdfast.dev.supervisor import Part, Supervisor

HTTP_PORT = 8233
START_S = 60.0
"""How long the service may take until it answers, and the demo until it ends."""
ASK_S = 0.05


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HOLDFAST_DATA",
    help="Where everything is kept [.holdfast here; as root a folder under /var/lib/holdfast].",
)
@click.option(
    "--port", type=click.IntRange(0, 65_535), help=f"The HTTP port, 0 for a free one [{HTTP_PORT} if free]."
)
@click.option("--no-demo", is_flag=True, help="Start no demo worker and no demo workflow.")
@click.option("--exit-after-demo", is_flag=True, help="Stop when the demo has ended; exit 0 if it succeeded.")
@click.option("--reset", is_flag=True, help="Remove everything that is kept, then start anew.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before removing.")
def dev(
    data: Path | None, port: int | None, no_demo: bool, exit_after_demo: bool, reset: bool, yes: bool
) -> None:
    """Run everything on this machine: Postgres, NATS, the service, a demo worker and its workflow.

    State is kept between starts. HOLDFAST_POSTGRES_URL and HOLDFAST_NATS_URL put servers of your own
    in the place of the embedded ones. Ctrl-C stops everything.
    """
    if no_demo and exit_after_demo:
        raise click.UsageError("--no-demo and --exit-after-demo contradict each other: give one of them.")

    from holdfast import logs
    from holdfast.dev.folder import default_data

    logs.configure("warning", "text")
    folder = default_data() if data is None else data
    if reset:
        _ask_to_remove(folder, yes)
    asyncio.run(_run(folder, port, has_demo=not no_demo, exit_after_demo=exit_after_demo, is_reset=reset))


async def _run(
    folder: Path, port: int | None, *, has_demo: bool, exit_after_demo: bool, is_reset: bool
) -> None:
    from holdfast.dev import embedded
    from holdfast.dev import stack as stacks
    from holdfast.dev.supervisor import supervise
    from holdfast.engine.loops import serve

    if is_reset:
        await stacks.reset(folder)
    click.echo("Starting Postgres, NATS and the service …")
    async with embedded(folder, migrate=True) as stack:
        http_url, ops_url = _addresses(port)
        parts = _parts(stack, http_url, ops_url, has_demo=has_demo)
        async with supervise(stack, parts) as supervisor:
            stack.tell(http_url=http_url, ops_url=ops_url)
            stop = asyncio.Event()
            shown = _show(stack, supervisor, has_demo=has_demo, exit_after_demo=exit_after_demo)
            await serve([_until_over(supervisor, stop), shown], stop)
            click.echo("Stopping …")


async def _until_over(supervisor: Supervisor, stop: asyncio.Event) -> None:
    await supervisor.wait()
    stop.set()


async def _show(stack: Stack, supervisor: Supervisor, *, has_demo: bool, exit_after_demo: bool) -> None:
    """Fill the screen: what runs where, the demo's progress, and what to try next."""
    from holdfast.cli.dev_demo import run_demo

    async with _bounded(stack, "the service does not answer"):
        client = await _answering(stack)
    async with client:
        click.echo(screen(stack, supervisor, has_demo=has_demo))
        tries = ["holdfast workflow list"]
        if has_demo:
            click.echo("Demo")
            async with _bounded(stack, "the demo did not end"):
                handle = await run_demo(client, lambda line: click.echo(f"  {line}"))
                await handle.result()
            tries.append(f"holdfast workflow show {handle.id}")
    if exit_after_demo:
        supervisor.end()
        return
    click.echo("\nTry next" + "".join(f"\n  {line}" for line in tries))
    click.echo("\nCtrl-C stops everything; the state is kept.")


def screen(stack: Stack, supervisor: Supervisor, *, has_demo: bool) -> str:
    """What runs where, as lines for people; passwords hidden."""
    from holdfast.config import redacted
    from holdfast.dev import demo

    state = stack.state
    roles = {process.role: process.pid for process in supervisor.parts() if process.pid is not None}
    lines = [
        ("HTTP API", f"{state.http_url}"),
        ("health", f"{state.ops_url}/readyz   metrics {state.ops_url}/metrics"),
        ("Postgres", redacted(stack.postgres_url)),
        ("NATS", redacted(stack.nats_url)),
    ]
    if has_demo:
        lines.append(("worker", f"{demo.__name__}, task queue {demo.TASK_QUEUE}"))
    where = f"{stack.data}"
    if stack.postgres_user is not None:
        where += f"   (as root, where Postgres' user {stack.postgres_user} can reach it)"
    lines += [
        ("data", where),
        ("logs", f"{stack.logs}"),
        ("processes", ", ".join(f"{role} {pid}" for role, pid in roles.items())),
    ]
    return "\nHoldfast is running\n" + "".join(f"  {name:<10} {text}\n" for name, text in lines)


def _parts(stack: Stack, http_url: str, ops_url: str, *, has_demo: bool) -> list[Part]:
    """The processes on top of the servers. `-P`: a file in the current directory must not shadow a module."""
    from holdfast.dev import demo
    from holdfast.dev.supervisor import Part

    holdfast = [sys.executable, "-P", "-m", "holdfast"]
    service = [
        "serve",
        "all",
        "--http",
        http_url.removeprefix("http://"),
        "--ops",
        ops_url.removeprefix("http://"),
    ]
    parts = [Part("service", [*holdfast, *service])]
    if has_demo:
        env = {"HOLDFAST_ADDRESS": stack.nats_url, "HOLDFAST_NAMESPACE": "main"}
        parts.append(Part("worker", [*holdfast, "worker", demo.__name__, "--ops", "127.0.0.1:0"], env))
    return parts


def _addresses(port: int | None) -> tuple[str, str]:
    """URLs for the HTTP API and for health. Raises `Stopped` if a port that was asked for is taken."""
    from holdfast.dev.folder import free_port, is_free

    if port and not is_free(port):
        raise Stopped(f"port {port} is taken by another process", FAILED, "holdfast dev --port 0")
    if port is None:
        port = HTTP_PORT if is_free(HTTP_PORT) else 0
    http = port or free_port()
    return f"http://127.0.0.1:{http}", f"http://127.0.0.1:{free_port(other_than=http)}"


async def _answering(stack: Stack) -> Client:
    """A client, once the service answers it."""
    from holdfast.client import Client

    client = await Client.connect(stack.nats_url, identity="holdfast dev")
    while True:
        try:
            async for _ in client.list_workflows(limit=1, page_size=1):
                pass
        except HoldfastError:
            await asyncio.sleep(ASK_S)
        else:
            return client


@contextlib.asynccontextmanager
async def _bounded(stack: Stack, problem: str) -> AsyncIterator[None]:
    """A block that has `START_S` seconds; then it raises `Stopped` with *problem* and what the service said last."""
    from holdfast.dev.process import tail

    try:
        async with asyncio.timeout(START_S):
            yield
    except TimeoutError as late:
        told = f"{problem} within {START_S:g} s; its last words:\n{tail(stack.logs / 'service.log')}"
        raise Stopped(told, FAILED, "holdfast dev --reset") from late


def _ask_to_remove(folder: Path, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"--reset removes everything in {folder}: add --yes to say that you mean it.")
    click.confirm(f"Remove everything in {folder}?", abort=True)
