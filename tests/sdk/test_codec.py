"""A payload codec end to end: code sees values, whoever looks into the database or at the bus sees none of them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from holdfast import Client, Worker
from holdfast.client import WorkflowFailureError
from holdfast.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    Payload,
    PayloadCodec,
)
from holdfast.exceptions import ActivityError, ApplicationError, CancelledError, TerminatedError
from holdfast.sdk.sealing import PAYLOADS
from holdfast.testing import WorkflowEnvironment
from holdfast.wire import commands, events, failures, messages
from tests.sdk import sealed_programs as programs
from tests.sdk.sealed_programs import SECRET
from tests.store.rows import Sql

QUEUE = "sealed"


class Scrambled(PayloadCodec):
    """Compressed, and then each byte changed with a key that is never the same twice. It takes its time, too."""

    def __init__(self) -> None:
        self._key = 0

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        await asyncio.sleep(0)
        return [self._scramble(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        await asyncio.sleep(0)
        return [self._unscramble(payload) for payload in payloads]

    def _scramble(self, payload: Payload) -> Payload:
        self._key = self._key % 255 + 1
        data = zlib.compress(msgspec.json.encode([dict(payload.metadata), payload.data]))
        return Payload(
            {"encoding": b"binary/scrambled", "key": b"%d" % self._key}, bytes(b ^ self._key for b in data)
        )

    def _unscramble(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != b"binary/scrambled":
            return payload
        key = int(payload.metadata["key"])
        inner = zlib.decompress(bytes(b ^ key for b in payload.data))
        metadata, data = msgspec.json.decode(inner, type=tuple[dict[str, bytes], bytes])
        return Payload(metadata, data)


class Broken(Scrambled):
    """It has lost its key."""

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        raise PermissionError("no such key")


class Refusing(Scrambled):
    """It takes results no more."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        raise PermissionError("the vault is closed")


def converter(codec: PayloadCodec) -> DataConverter:
    return DataConverter(
        payload_codec=codec, failure_converter_class=DefaultFailureConverterWithEncodedAttributes
    )


Connect = Callable[[PayloadCodec], Awaitable[Client]]


@pytest.fixture
async def connect(env: WorkflowEnvironment) -> AsyncIterator[Connect]:
    """Clients with a codec."""
    clients: list[Client] = []

    async def made(codec: PayloadCodec) -> Client:
        client = await Client.connect(env.nats_url, data_converter=converter(codec))
        clients.append(client)
        return client

    yield made
    for client in clients:
        await client.close()


async def everything_stored(database: str) -> str:
    """All rows of all tables as text, bytes both as hexadecimal and as what they spell."""
    async with Sql.connected(database) as sql:
        tables = await sql("SELECT tablename FROM pg_tables WHERE schemaname = 'holdfast'")
        found = [str(row) for table in tables for row in await sql(f"SELECT t::text FROM {table} AS t")]
    text = "\n".join(found)
    return text + bytes.fromhex("".join(_hex_of(text))).decode(errors="replace")


def _hex_of(text: str) -> list[str]:
    parts = [part[: len(part) - len(part.lstrip("0123456789abcdef"))] for part in text.split("\\\\x")[1:]]
    return [part[: len(part) // 2 * 2] for part in parts]


def worker(client: Client, **options: Any) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[programs.Everything, programs.failing, programs.waiting],
        activities=[programs.fragile, programs.hopeless],
        **options,
    )


@pytest.mark.parametrize("cached", [0, 100], ids=["replayed each time", "kept between tasks"])
async def test_values_come_through_and_nothing_readable_is_stored(
    connect: Connect, database: str, cached: int
) -> None:
    client = await connect(Scrambled())
    async with worker(client, max_cached_workflows=cached):
        handle = await client.start_workflow(
            programs.Everything.run, args=[SECRET, SECRET.encode()], id="w", task_queue=QUEUE
        )
        await handle.signal(programs.Everything.tell, SECRET)
        result = await handle.result()

    assert result == {
        "input": [SECRET, SECRET],
        "activity": [SECRET, {"so far": SECRET}],
        "step": f"coined: {SECRET}",
        "step failed": [f"refused: {SECRET}", SECRET],
        "failed": [f"hopeless: {SECRET}", {"word": SECRET}],
        "because": f"KeyError: '{SECRET}'",
        "signal": [SECRET],
    }
    assert SECRET not in await everything_stored(database)


async def test_what_is_stored_could_be_read_without_a_codec(env: WorkflowEnvironment, database: str) -> None:
    """The test above looks where the values would be."""
    await env.client.start_workflow("anything", SECRET, id="w", task_queue=QUEUE)

    assert SECRET in await everything_stored(database)


async def test_failures_reach_the_client_as_they_were_raised(connect: Connect, database: str) -> None:
    client = await connect(Scrambled())
    async with worker(client):
        with pytest.raises(WorkflowFailureError) as caught:
            await client.execute_workflow(programs.failing, SECRET, id="w", task_queue=QUEUE)

    cause = caught.value.cause
    assert isinstance(cause, ActivityError)
    assert isinstance(cause.cause, ApplicationError)
    assert (cause.cause.message, *cause.cause.details) == (f"hopeless: {SECRET}", {"word": SECRET})
    assert cause.cause.type == "Hopeless"
    assert SECRET not in await everything_stored(database)


async def test_details_of_other_endings_are_unsealed_too(connect: Connect, database: str) -> None:
    client = await connect(Scrambled())
    handle = await client.start_workflow(programs.waiting, SECRET, id="w", task_queue=QUEUE)
    await handle.terminate(SECRET)

    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, TerminatedError)
    assert caught.value.cause.details == (SECRET,)
    assert SECRET not in await everything_stored(database)


async def test_a_cancelled_workflow_ends_as_cancelled(connect: Connect) -> None:
    client = await connect(Scrambled())
    async with worker(client):
        handle = await client.start_workflow(programs.waiting, SECRET, id="w", task_queue=QUEUE)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert isinstance(caught.value.cause, CancelledError)


async def test_a_worker_that_cannot_decode_leaves_the_run_to_one_that_can(connect: Connect) -> None:
    client = await connect(Scrambled())
    handle = await client.start_workflow(programs.failing, SECRET, id="w", task_queue=QUEUE)
    async with worker(await connect(Broken())):
        async with asyncio.timeout(20):
            while (await handle.describe()).last_task_failure is None:
                await asyncio.sleep(0.02)
    described = await handle.describe()
    assert "Unknown payload encoding binary/scrambled" in str(described.last_task_failure)

    async with worker(client):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert isinstance(caught.value.cause, ActivityError), "the code's own failure"


async def test_a_worker_that_cannot_encode_goes_on_and_leaves_the_run_open(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(Scrambled())
    handle = await client.start_workflow(programs.failing, SECRET, id="w", task_queue=QUEUE)
    refusing = worker(await connect(Refusing()))
    async with refusing:
        async with asyncio.timeout(20):
            while "the payload codec Refusing cannot encode" not in caplog.text:
                await asyncio.sleep(0.02)
        assert refusing.is_running
    described = await handle.describe()

    assert described.status is not None
    assert described.status.name == "RUNNING"


def structs() -> list[type]:
    """Every struct of the wire's modules that speak of workflows."""
    return [
        kind
        for module in (commands, events, failures, messages)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    ]


SEALED_BY_THE_CLIENT = {
    (messages.Start, "input"),
    (messages.Start, "memo"),
    (messages.Signal, "input"),
    (messages.Terminate, "details"),
}
BY_KIND = {(commands.RecordMarker, "value"), (events.MarkerRecorded, "value")}


def test_no_payload_of_the_wire_is_forgotten() -> None:
    """A field that is added to an event or a message, and holds a payload, must be sealed as well."""
    forgotten = [
        f"{kind.__name__}.{field.name}"
        for kind in structs()
        for field in msgspec.structs.fields(kind)
        if field.type in (bytes, failures.Failure, failures.Failure | None)
        and field.name not in PAYLOADS.get(kind, {})
        and (kind, field.name) not in SEALED_BY_THE_CLIENT | BY_KIND
        # They are there to be searched: the service must be able to read them, and users are told so.
        and field.name != "search_attributes"
    ]

    assert forgotten == []
