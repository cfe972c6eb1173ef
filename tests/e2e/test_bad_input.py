"""What strangers, old clients and broken workers send over the real wire: a clear error each, and nothing else happens.

One service takes all of it, each test in a namespace of its own. After every test a bystander's workflow must still
complete; in the end the invariants must hold.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from holdfast import Client, Worker, activity, workflow
from holdfast.dev import Stack
from holdfast.exceptions import AlreadyExists, HoldfastError, Invalid, LeaseLost, NotFound, Refused
from holdfast.sdk.rpc import Rpc
from holdfast.testing import service_on
from holdfast.wire import codec, subjects
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from tests.invariants.check import violations

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("whole-system")]

TESTS_MAX = 500
numbers = itertools.count(1)

ODD = [
    "with space",
    "dots.in.it",
    "*",
    ">",
    "a.>",
    "🙂 émoji",
    "x" * 1000,
    "é" * 1000,
    "new\nline\ttab",
    "'; DROP TABLE run; --",
    "%s{}$1\\",
    " ",
    "=00",
]
REFUSED_TEXTS = {
    "empty": "is empty",
    "x" * 1001: "has 1001 characters",
    "🙂" * 501: "2004 bytes",
    "nul\x00inside": "NUL character at position 3",
}
MIB_2 = 2 * 1024 * 1024


@activity.defn
async def echo(value: int) -> int:
    return value


@workflow.defn
async def bystander(value: int) -> int:
    return await echo(value)


class Wire:
    """Bare calls to a service, in a namespace of this test's own unless said otherwise."""

    def __init__(self, bystanders: Client, namespace: str) -> None:
        self.client = Client(
            Rpc(bystanders.caller.rpc.bus, namespace),
            data_converter=bystanders.data_converter,
            identity="stranger",
        )
        self.rpc = self.client.caller.rpc
        self.namespace = namespace

    async def call(self, verb: str, request: Any) -> Any:
        return await self.rpc.once(verb, request)

    async def bytes(self, verb: str, data: bytes, namespace: str | None = None) -> list[m.Answer]:
        """The answers to a message of any bytes; what is wrong with all of it is raised."""
        subject = subjects.rpc(self.namespace if namespace is None else namespace, verb)
        return codec.decode_answers(await self.rpc.bus.request(subject, data, 5.0))

    async def start(self, workflow_id: str = "w", **changes: Any) -> m.Started:
        fields: dict[str, Any] = {
            "request_id": uuid4().hex,
            "workflow_id": workflow_id,
            "workflow_type": "bare",
            "task_queue": "bare",
        }
        started: m.Started = await self.call("start", m.Start(**{**fields, **changes}))
        return started

    async def claimed(self, queue: str = "bare") -> m.WorkflowTask:
        tasks: m.Tasks = await self.call("claim", m.Claim(worker="W", task_queue=queue, workflow_slots=1))
        (task,) = tasks.workflow_tasks
        return task

    async def count(self) -> int:
        page: m.ListPage = await self.call("list", m.List(limit=1000))
        return len(page.runs)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bystanders(stack: Stack, template: str) -> AsyncIterator[Client]:
    """A client whose workflows are served; its service is what all tests of this module speak to."""
    name = f"bad_input_{uuid4().hex}"
    url = re.sub(r"(://[^/]+)/[^?]*", rf"\1/{name}", stack.postgres_url)
    await do(stack.postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    await do(
        url,
        f"INSERT INTO holdfast.namespace (name) SELECT 'stranger-' || n FROM generate_series(1, {TESTS_MAX}) AS n",
    )
    async with service_on(url, stack.nats_url) as env:
        async with Worker(env.client, task_queue="bystander", workflows=[bystander], activities=[echo]):
            yield env.client
    assert await violations(url) == []
    await do(stack.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="module")
async def wire(bystanders: Client) -> AsyncIterator[Wire]:
    number = next(numbers)
    yield Wire(bystanders, f"stranger-{number}")
    async with asyncio.timeout(20):
        result = await bystanders.execute_workflow(
            bystander, number, id=f"bystander {number}", task_queue="bystander"
        )
    assert result == number


async def do(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def completes(task: m.WorkflowTask, commands: list[Any], **changes: Any) -> m.CompleteWorkflowTask:
    fields: dict[str, Any] = {"fence": task.fence, "seen_seq": task.head_seq}
    return m.CompleteWorkflowTask(run_id=task.run_id, worker="W", commands=commands, **{**fields, **changes})


# -- names


@pytest.mark.parametrize("name", ODD)
async def test_any_text_is_a_workflow_id_and_a_task_queue(wire: Wire, name: str) -> None:
    """The same worker must not get what is on another queue, whatever a broker's wildcards look like."""
    client = wire.client
    other = await wire.start(f"{name[:400]}.other", task_queue="other")
    async with Worker(client, task_queue=name, workflows=[bystander], activities=[echo]):
        assert await client.execute_workflow(bystander, 5, id=name, task_queue=name) == 5
        found: m.Description = await wire.call("describe", m.Describe(workflow_id=name))
        assert (found.summary.workflow_id, found.summary.task_queue) == (name, name)
        page: m.ListPage = await wire.call("list", m.List(workflow_id=name))
        assert [run.run_id for run in page.runs] == [found.summary.run_id]
    waiting: m.Description = await wire.call("describe", m.Describe(workflow_id=other.workflow_id))
    assert waiting.summary.status == "PENDING"


@pytest.mark.parametrize("field", ["workflow_id", "workflow_type", "task_queue", "request_id"])
@pytest.mark.parametrize(("text", "why"), REFUSED_TEXTS.items(), ids=["empty", "long", "bytes", "NUL"])
async def test_a_text_that_cannot_be_kept_is_refused_by_its_name(
    wire: Wire, field: str, text: str, why: str
) -> None:
    with pytest.raises(Invalid, match=f"{field} .*{why}"):
        await wire.start(**{field: "" if text == "empty" else text})
    assert await wire.count() == 0


@pytest.mark.parametrize("verb", ["start", "signal", "terminate", "describe", "claim"])
async def test_a_lone_surrogate_is_refused(wire: Wire, verb: str) -> None:
    requests = {
        "start": m.Start(request_id="r", workflow_id="w???w", workflow_type="t", task_queue="q"),
        "signal": m.Signal(request_id="r", workflow_id="w", name="s???s"),
        "terminate": m.Terminate(request_id="r", workflow_id="w", reason="r???r"),
        "describe": m.Describe(workflow_id="w???w"),
        "claim": m.Claim(worker="W", task_queue="q???q", workflow_slots=1),
    }
    data = codec.encode([requests[verb]]).replace(b"???", b"\xed\xa0\x80")

    (answer,) = await wire.bytes(verb, data)

    assert answer.code == "invalid"
    assert await wire.count() == 0


@pytest.mark.parametrize("namespace", ["nobody", "Main", "main ", "*", ">", "", "x" * 70, "main.start"])
async def test_an_unknown_namespace_is_not_found(wire: Wire, namespace: str) -> None:
    request = codec.encode([m.Start(request_id="r", workflow_id="w", workflow_type="t", task_queue="q")])

    with pytest.raises(HoldfastError) as caught:
        await wire.bytes("start", request, namespace)

    assert caught.value.code in ("not_found", "invalid")
    assert await wire.count() == 0


async def test_a_queue_that_nobody_serves_keeps_its_workflow(wire: Wire) -> None:
    started = await wire.start(task_queue="nobody serves this")

    tasks: m.Tasks = await wire.call("claim", m.Claim(worker="W", task_queue="another", workflow_slots=9))
    assert (tasks.workflow_tasks, tasks.activity_tasks) == ([], [])
    found: m.Outcome = await wire.call("result", m.Result(workflow_id="w", wait_s=0))
    assert (found.run_id, found.status, found.event) == (started.run_id, "PENDING", None)


# -- bytes


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xc1",
        b"GET / HTTP/1.1",
        b"{}",
        b"\x91",
        nested(100_000),
        b"\xdd\xff\xff\xff\xff",
        b"\xff" * 1000,
    ],
    ids=["empty", "zero", "reserved", "http", "json", "cut", "deep", "long", "noise"],
)
async def test_bytes_that_are_no_frame_are_refused(wire: Wire, data: bytes) -> None:
    for verb in codec.VERBS:
        with pytest.raises(Invalid):
            await wire.bytes(verb, data)


@pytest.mark.parametrize(
    "item",
    [
        None,
        5,
        "text",
        [],
        {},
        {"workflow_id": 5},
        {"workflow_id": "w"},
        {"type": "Explode"},
        {"limit": 2**63},
    ],
    ids=str,
)
async def test_an_item_that_is_no_request_is_refused_alone(wire: Wire, item: object) -> None:
    """Its neighbours in the frame are answered."""
    good = m.Start(request_id="r", workflow_id="good", workflow_type="t", task_queue="q")

    first, second, third = await wire.bytes("start", msgspec.msgpack.encode([item, good, item]))

    assert (first.code, second.code, third.code) == ("invalid", "ok", "invalid")
    assert await wire.count() == 1


async def test_an_unknown_field_is_passed_over_and_an_unknown_verb_has_no_listener(wire: Wire) -> None:
    """A newer client may say more than this service knows."""
    more = {
        "request_id": "r",
        "workflow_id": "w",
        "workflow_type": "t",
        "task_queue": "q",
        "added_later": [1],
    }
    (answer,) = await wire.bytes("start", msgspec.msgpack.encode([more]))
    assert answer.code == "ok"

    with pytest.raises(HoldfastError):
        await wire.bytes("explode", b"\x90")


# -- payloads


def text_of(size: int) -> bytes:
    return b'["' + b"x" * (size - 4) + b'"]'


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (text_of(MIB_2 + 1), r"2,097,153 bytes.*2 MiB"),
        (b"", "not a JSON array"),
        (b"{}", "not a JSON array"),
        (b"[1,", "not a JSON array"),
        (b"[NaN]", "not a JSON array"),
        (b"\xff\xfe", "not a JSON array"),
        (b'["\xed\xa0\x80"]', "not a JSON array"),
        (b"[" * 100_000, "not a JSON array"),
    ],
    ids=["large", "empty", "object", "cut", "NaN", "no UTF-8", "surrogate", "deep"],
)
async def test_input_that_cannot_be_kept_is_refused(wire: Wire, data: bytes, why: str) -> None:
    with pytest.raises(Invalid, match=f"input .*{why}"):
        await wire.start(input=data)
    await wire.start("signalled")
    with pytest.raises(Invalid, match=f"input .*{why}"):
        await wire.call("signal", m.Signal(request_id="s", workflow_id="signalled", name="s", input=data))
    assert await wire.count() == 1


async def test_two_mebibytes_are_kept_to_the_byte(wire: Wire) -> None:
    data = text_of(MIB_2)
    await wire.start(input=data)

    page: m.HistoryPage = await wire.call("history", m.History(workflow_id="w"))

    assert getattr(page.events[0].event, "input", b"") == data
    assert json.loads(data)


# -- ids that are taken


async def test_policies_decide_about_an_id_that_is_open(wire: Wire) -> None:
    first = await wire.start()

    with pytest.raises(AlreadyExists, match="already started") as caught:
        await wire.start()
    assert caught.value.details["run_id"] == first.run_id
    same = await wire.start(id_conflict="use_existing")
    assert (same.run_id, same.is_new) == (first.run_id, False)
    next_one = await wire.start(id_conflict="terminate_existing")
    assert (next_one.run_id != first.run_id, next_one.is_new) == (True, True)
    ended: m.Outcome = await wire.call("result", m.Result(workflow_id="w", run_id=first.run_id, wait_s=0))
    assert ended.status == "TERMINATED"
    assert await wire.count() == 2


@pytest.mark.parametrize(
    ("ending", "allowed"),
    [(c.CompleteWorkflow(), {"allow"}), (None, {"allow", "allow_if_failed"})],
    ids=["completed", "terminated"],
)
@pytest.mark.parametrize("policy", ["allow", "allow_if_failed", "reject"])
async def test_policies_decide_about_an_id_that_is_closed(
    wire: Wire, policy: str, ending: c.CompleteWorkflow | None, allowed: set[str]
) -> None:
    first = await wire.start()
    if ending is None:
        await wire.call("terminate", m.Terminate(request_id="t", workflow_id="w"))
    else:
        await wire.call("report", completes(await wire.claimed(), [ending]))

    if policy in allowed:
        assert (await wire.start(id_reuse=policy)).run_id != first.run_id
    else:
        with pytest.raises(AlreadyExists, match=policy):
            await wire.start(id_reuse=policy)


async def test_a_request_id_means_one_request(wire: Wire) -> None:
    first = await wire.start(request_id="same")
    again = await wire.start(request_id="same")
    assert (again.run_id, again.is_new) == (first.run_id, False)

    with pytest.raises(Refused, match="another body"):
        await wire.start(request_id="same", input=b"[1]")
    await wire.call("signal", m.Signal(request_id="s", workflow_id="w", name="s"))
    await wire.call("signal", m.Signal(request_id="s", workflow_id="w", name="s"))
    with pytest.raises(Refused, match="another body"):
        await wire.call("signal", m.Signal(request_id="s", workflow_id="w", name="other"))
    page: m.HistoryPage = await wire.call("history", m.History(workflow_id="w"))
    assert [type(event.event).__name__ for event in page.events] == ["WorkflowStarted", "SignalReceived"]


@pytest.mark.parametrize("field", ["id_reuse", "id_conflict"])
async def test_an_unknown_policy_is_told_the_known_ones(wire: Wire, field: str) -> None:
    with pytest.raises(Invalid, match=rf"{field} is 'explode': expected one of \w+, \w+, \w+"):
        await wire.start(**{field: "explode"})


# -- runs that are not there, or closed


async def test_a_closed_run_takes_nothing_more(wire: Wire) -> None:
    started = await wire.start()
    await wire.call("terminate", m.Terminate(request_id="t", workflow_id="w", reason="enough"))
    before: m.HistoryPage = await wire.call("history", m.History(workflow_id="w"))

    for verb, request in (
        ("signal", m.Signal(request_id="s", workflow_id="w", name="late")),
        ("cancel", m.Cancel(request_id="c", workflow_id="w")),
        ("terminate", m.Terminate(request_id="again", workflow_id="w")),
    ):
        with pytest.raises(Refused, match=rf"cannot {verb} workflow 'w'.*closed \(TERMINATED\)"):
            await wire.call(verb, request)
    with pytest.raises(LeaseLost, match="closed"):
        await wire.call(
            "report", m.CompleteWorkflowTask(run_id=started.run_id, worker="W", fence=1, seen_seq=1)
        )
    assert await wire.call("history", m.History(workflow_id="w")) == before


async def test_what_is_not_there_is_not_found(wire: Wire) -> None:
    await wire.start()
    nobody = str(uuid4())
    for verb, request in (
        ("signal", m.Signal(request_id="s", workflow_id="other", name="s")),
        ("signal", m.Signal(request_id="s", workflow_id="w", run_id=nobody, name="s")),
        ("cancel", m.Cancel(request_id="c", workflow_id="other")),
        ("terminate", m.Terminate(request_id="t", workflow_id="other")),
        ("describe", m.Describe(workflow_id="other")),
        ("history", m.History(workflow_id="w", run_id=nobody)),
        ("result", m.Result(workflow_id="other", wait_s=0)),
        ("report", m.CompleteActivity(run_id=nobody, worker="W", seq=1, fence=1)),
    ):
        with pytest.raises(NotFound, match=r"no (run|workflow)"):
            await wire.call(verb, request)


@pytest.mark.parametrize(
    "run_id", ["", "x", "0" * 36, "../../etc/passwd", "01a20daf-0000-7000-8000-00000000000g"]
)
async def test_a_run_id_that_is_none_is_refused(wire: Wire, run_id: str) -> None:
    for verb, request in (
        ("describe", m.Describe(workflow_id="w", run_id=run_id)),
        ("signal", m.Signal(request_id="s", workflow_id="w", name="s", run_id=run_id)),
        ("report", m.CompleteActivity(run_id=run_id, worker="W", seq=1, fence=1)),
        ("heartbeat", m.WorkerHeartbeat(worker="W", task_queue="q", leases=[m.Lease(run_id, 1, 1)])),
    ):
        with pytest.raises(Invalid, match="UUID"):
            await wire.call(verb, request)
