"""`holdfast workflow`: start workflows, wait for them, look at them, steer them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import errors, views
from holdfast.cli.arguments import Duration, arguments
from holdfast.cli.connect import CALL_S, Target, target_options, with_client
from holdfast.cli.output import Format, emit, emit_value, format_option, say

if TYPE_CHECKING:
    from holdfast.client import Client, WorkflowHandle

STATUSES = (
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "CANCELED",
    "TERMINATED",
    "TIMED_OUT",
    "CONTINUED_AS_NEW",
)
REUSE = {
    "allow": "ALLOW_DUPLICATE",
    "allow-if-failed": "ALLOW_DUPLICATE_FAILED_ONLY",
    "reject": "REJECT_DUPLICATE",
}
CONFLICT = {"fail": "FAIL", "use-existing": "USE_EXISTING", "terminate-existing": "TERMINATE_EXISTING"}

workflow_id = click.argument("workflow_id", metavar="ID")
run_id = click.option("--run-id", "-r", help="This run instead of the newest of the id.")
call_s = timedelta(seconds=CALL_S)


@click.group()
def workflow() -> None:
    """Start, watch and steer workflows."""


def start_options(command: Any) -> Any:
    """What `start` and `execute` have in common."""
    options = [
        click.argument("workflow_type", metavar="TYPE"),
        arguments,
        click.option("--id", "new_id", help="The workflow's id [default: a new one]."),
        click.option(
            "--queue", "-q", required=True, envvar="HOLDFAST_QUEUE", help="The task queue its workers ask."
        ),
        click.option(
            "--id-reuse",
            type=click.Choice(list(REUSE)),
            default="allow",
            show_default=True,
            help="May an id be used again whose runs are all closed?",
        ),
        click.option(
            "--id-conflict",
            type=click.Choice(list(CONFLICT)),
            default="fail",
            show_default=True,
            help="What to do if a run of the id is open.",
        ),
        target_options,
        format_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@workflow.command()
@start_options
def start(
    workflow_type: str,
    args: Sequence[Any],
    new_id: str | None,
    queue: str,
    id_reuse: str,
    id_conflict: str,
    target: Target,
    output: Format,
) -> None:
    """Start a workflow of TYPE with JSON arguments (literal, @FILE, or - for standard input)."""

    async def work(client: Client) -> None:
        handle = await _started(client, workflow_type, args, new_id, queue, id_reuse, id_conflict)
        record = {"workflow_id": handle.id, "run_id": handle.result_run_id}
        say(
            f"Started {handle.id}, run {handle.result_run_id}.\nFollow it: holdfast workflow show {quote(handle.id)}",
            record,
            output,
        )

    with_client(target, work)


@workflow.command()
@start_options
@click.option(
    "--timeout", type=Duration(), help="How long to wait for the result [default: as long as it takes]."
)
def execute(
    workflow_type: str,
    args: Sequence[Any],
    new_id: str | None,
    queue: str,
    id_reuse: str,
    id_conflict: str,
    target: Target,
    output: Format,
    timeout: timedelta | None,
) -> None:
    """Start a workflow, wait for it and print its result."""

    async def work(client: Client) -> None:
        handle = await _started(client, workflow_type, args, new_id, queue, id_reuse, id_conflict)
        emit_value(await _result(handle, timeout), output)

    with_client(target, work)


@workflow.command("list")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(STATUSES, case_sensitive=False),
    help="Only these; RUNNING means every open run.",
)
@click.option("--type", "workflow_type", help="Only workflows of this type.")
@click.option("--id", "listed_id", help="Only runs of this workflow id.")
@click.option("--failing", is_flag=True, help="Only open runs whose workflow code fails at present.")
@click.option("--query", help="A filter, in place of the others: WorkflowType = 'order' AND tenant = 'acme'.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@target_options
@format_option
def list_(
    statuses: Sequence[str],
    workflow_type: str | None,
    listed_id: str | None,
    failing: bool,
    query: str | None,
    limit: int,
    target: Target,
    output: Format,
) -> None:
    """List runs, newest first.

    --query stands alone: it can say all that the other filters say, and its faults are told by their place in it.
    """
    terms = [("ExecutionStatus", statuses), ("WorkflowType", workflow_type), ("WorkflowId", listed_id)]
    asked = views.query(terms, failing=failing)
    if query is not None and asked is not None:
        raise click.UsageError(f"--query cannot be combined with other filters: add AND {asked} to it.")
    asked = query or asked

    async def work(client: Client) -> None:
        found = client.list_workflows(asked, limit=limit, page_size=min(limit, 1_000), rpc_timeout=call_s)
        emit([views.summary(run) async for run in found], output, columns=views.LIST_COLUMNS)

    with_client(target, work)


@workflow.command()
@click.option("--query", help="A filter; GROUP BY ExecutionStatus at its end counts each status.")
@target_options
@format_option
def count(query: str | None, target: Target, output: Format) -> None:
    """Count runs."""

    async def work(client: Client) -> None:
        found = await client.count_workflows(query, rpc_timeout=call_s)
        groups = {str(group.group_values[0]): group.count for group in found.groups}
        emit({"count": found.count, **groups}, output)

    with_client(target, work)


@workflow.command()
@workflow_id
@run_id
@target_options
@format_option
def why(workflow_id: str, run_id: str | None, target: Target, output: Format) -> None:
    """Say in one sentence why a workflow does not move on."""

    async def work(client: Client) -> None:
        sentence = await client.get_workflow_handle(workflow_id, run_id=run_id).why(rpc_timeout=call_s)
        say(sentence, {"workflow_id": workflow_id, "why": sentence}, output)

    with_client(target, work)


@workflow.command()
@workflow_id
@run_id
@target_options
@format_option
def show(workflow_id: str, run_id: str | None, target: Target, output: Format) -> None:
    """Show a workflow: its state, what it waits for, and what it did so far."""

    async def work(client: Client) -> None:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        described = await handle.describe(rpc_timeout=call_s)
        pinned = client.get_workflow_handle(workflow_id, run_id=described.run_id)
        history = await pinned.fetch_history(rpc_timeout=call_s)
        if output.name == "table":
            emit(views.headline(described), output)
            emit(views.story(history), output, columns=views.STORY_COLUMNS)
        else:
            emit({**views.description(described), "events": history.to_json_dict()["events"]}, output)

    with_client(target, work)


@workflow.command()
@workflow_id
@run_id
@target_options
@format_option
def describe(workflow_id: str, run_id: str | None, target: Target, output: Format) -> None:
    """Describe a workflow: state, open activities and timers, last failures."""

    async def work(client: Client) -> None:
        described = await client.get_workflow_handle(workflow_id, run_id=run_id).describe(rpc_timeout=call_s)
        emit(views.description(described), output)

    with_client(target, work)


@workflow.command()
@workflow_id
@run_id
@target_options
@format_option
def history(workflow_id: str, run_id: str | None, target: Target, output: Format) -> None:
    """Print a workflow's history: as JSON, what a replay reads; as JSON lines, an event each."""

    async def work(client: Client) -> None:
        found = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history(rpc_timeout=call_s)
        match output.name:
            case "table":
                emit(views.story(found), output, columns=views.STORY_COLUMNS)
            case "jsonl":
                emit(found.to_json_dict()["events"], output)
            case _:
                emit(found.to_json_dict(), output)

    with_client(target, work)


@workflow.command()
@workflow_id
@run_id
@click.option("--timeout", type=Duration(), help="How long to wait [default: as long as it takes].")
@target_options
@format_option
def result(
    workflow_id: str, run_id: str | None, timeout: timedelta | None, target: Target, output: Format
) -> None:
    """Wait for a workflow to close and print its result."""

    async def work(client: Client) -> None:
        emit_value(await _result(client.get_workflow_handle(workflow_id, run_id=run_id), timeout), output)

    with_client(target, work)


@workflow.command()
@workflow_id
@click.argument("name")
@arguments
@run_id
@target_options
@format_option
def signal(
    workflow_id: str, name: str, args: Sequence[Any], run_id: str | None, target: Target, output: Format
) -> None:
    """Send the signal NAME with JSON arguments (literal, @FILE, or -)."""

    async def work(client: Client) -> None:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        await handle.signal(name, args=args, rpc_timeout=call_s)

    with_client(target, work)
    say(
        f"Signal {name} is in the history of {workflow_id}.",
        {"workflow_id": workflow_id, "signal": name},
        output,
    )


@workflow.command()
@workflow_id
@run_id
@click.option("--reason", default="", help="Kept in the history.")
@target_options
@format_option
def cancel(workflow_id: str, run_id: str | None, reason: str, target: Target, output: Format) -> None:
    """Ask a workflow to cancel itself; it may clean up first."""

    async def work(client: Client) -> None:
        await client.get_workflow_handle(workflow_id, run_id=run_id).cancel(reason=reason, rpc_timeout=call_s)

    with_client(target, work)
    told = (
        f"{workflow_id} was asked to cancel itself.\nFollow it: holdfast workflow show {quote(workflow_id)}"
    )
    say(told, {"workflow_id": workflow_id, "cancel_requested": True}, output)


@workflow.command()
@workflow_id
@run_id
@click.option("--reason", default="", help="Kept in the history.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@target_options
@format_option
def terminate(
    workflow_id: str, run_id: str | None, reason: str, yes: bool, target: Target, output: Format
) -> None:
    """End a workflow at once; its code gets no chance to clean up."""
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        click.confirm(f"End {workflow_id} at once, without letting it clean up?", abort=True)

    async def work(client: Client) -> None:
        await client.get_workflow_handle(workflow_id, run_id=run_id).terminate(
            reason=reason, rpc_timeout=call_s
        )

    with_client(target, work)
    say(f"{workflow_id} is terminated.", {"workflow_id": workflow_id, "terminated": True}, output)


async def _started(
    client: Client,
    workflow_type: str,
    args: Sequence[Any],
    new_id: str | None,
    queue: str,
    id_reuse: str,
    id_conflict: str,
) -> WorkflowHandle[Any, Any]:
    """The workflow, started. Raises `Stopped` if the policies forbid it."""
    from holdfast.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
    from holdfast.exceptions import WorkflowAlreadyStartedError

    name = new_id or views.new_id(workflow_type)
    try:
        return await client.start_workflow(
            workflow_type,
            args=args,
            id=name,
            task_queue=queue,
            id_reuse_policy=WorkflowIDReusePolicy[REUSE[id_reuse]],
            id_conflict_policy=WorkflowIDConflictPolicy[CONFLICT[id_conflict]],
            rpc_timeout=call_s,
        )
    except WorkflowAlreadyStartedError as error:
        known = f" (run {error.run_id})" if error.run_id else ""
        raise errors.Stopped(
            f"a workflow with the id {name} exists already{known}",
            errors.FAILED,
            f"holdfast workflow show {quote(name)}",
        ) from error


async def _result(handle: WorkflowHandle[Any, Any], timeout: timedelta | None) -> Any:
    """The result. Raises `Stopped` with the whole chain of causes if the workflow ended in another way."""
    from holdfast.client import WorkflowFailureError
    from holdfast.exceptions import RPCError, RPCStatusCode

    try:
        return await handle.result(rpc_timeout=timeout)
    except WorkflowFailureError as error:
        chain = views.causes(error.cause)
        raise errors.Stopped(
            f"{handle.id} failed\n{chain}", errors.FAILED, f"holdfast workflow show {quote(handle.id)}"
        ) from error
    except RPCError as error:
        if error.status is not RPCStatusCode.DEADLINE_EXCEEDED:
            raise
        seconds = timeout.total_seconds() if timeout else 0
        told = f"{handle.id} did not close within {seconds:g} s; it goes on"
        raise errors.Stopped(told, errors.TIMED_OUT, f"holdfast workflow show {quote(handle.id)}") from error
