"""The verbs over the bus: frames in, frames out. Decode, check, ask the engine, encode; no rule lives here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from holdfast.bus import REQUEST_INTAKE, Bus, Intake, Msg
from holdfast.engine.engine import Engine
from holdfast.engine.fitting import LARGE_BYTES, REST_BYTES, leases_of
from holdfast.engine.schedule_requests import SCHEDULE_VERBS
from holdfast.engine.verbs import VERBS, fitted
from holdfast.exceptions import HoldfastError, OutcomeUnknown
from holdfast.wire import codec, subjects
from holdfast.wire import messages as m

log = logging.getLogger("holdfast.rpc")

QUEUE_GROUP = "hf"

# A caller that waits for a result holds a place until it closes or the poll ends.
LONG_POLLS = Intake(concurrency=100_000)


async def serve_rpc(engine: Engine, bus: Bus) -> None:
    """Answer every verb on *bus*, and hear of closed runs, from now on."""
    for verb in codec.VERBS:
        intake = LONG_POLLS if verb == "result" else REQUEST_INTAKE
        bus.respond(subjects.rpc_all(verb), _framed(engine, verb), queue_group=QUEUE_GROUP, intake=intake)
    bus.subscribe(subjects.closed_all(), _hears_of_closed(engine))
    bus.on_up.append(engine.outcomes.doubt)


def _framed(engine: Engine, verb: str) -> Callable[[str, bytes], Awaitable[bytes]]:
    kind = codec.REQUESTS[verb]
    ask = {**VERBS, **SCHEDULE_VERBS}[verb]
    requests = engine.metrics.requests
    latency = engine.metrics.request_latency.labels(verb)

    async def one(namespace: str, raw: msgspec.Raw) -> m.Answer:
        started = time.perf_counter()
        try:
            request = codec.decode(raw, kind)
            codec.check_request(request)
            response = await ask(engine, namespace, request)
            value = codec.encode(response)
            if len(value) > LARGE_BYTES and len(value) > _room_bytes(engine):
                value = codec.encode(fitted(engine, namespace, request, response))
            answer = m.Answer("ok", msgspec.Raw(value))
        except HoldfastError as error:
            answer = failed(error)
            if error.code in ("refused", "already_exists", "lease_lost"):
                engine.metrics.refused.labels(error.code).inc()
        except Exception:
            # The outer edge of the transport: the caller hears that it is our fault, the log says what.
            log.exception("%s failed", verb)
            answer = m.Answer("internal", message=f"{verb} failed inside the service; its log has the cause")
        requests.labels(verb, answer.code).inc()
        latency.observe(time.perf_counter() - started)
        return answer

    async def answer(subject: str, data: bytes) -> bytes:
        # What is wrong with the whole frame is raised: the bus tells it to the asker.
        namespace = subjects.namespace_of(subject)
        items = codec.decode_frame(data)
        await engine.check_namespace(namespace)
        answers: Sequence[m.Answer]
        if len(items) == 1:
            answers = [await one(namespace, items[0])]
        else:
            answers = await asyncio.gather(*(one(namespace, item) for item in items))
        reply = codec.encode(answers)
        if len(reply) > LARGE_BYTES and len(reply) > engine.bus.max_payload_bytes:
            reply = codec.encode(_that_fit(engine, namespace, items, answers, kind))
        return reply

    return answer


def _room_bytes(engine: Engine) -> int:
    return engine.bus.max_payload_bytes - REST_BYTES


def _that_fit(
    engine: Engine, namespace: str, items: Sequence[msgspec.Raw], answers: Sequence[m.Answer], kind: Any
) -> list[m.Answer]:
    """As many of *answers* as one message holds; whoever asked for the others is to ask again."""
    fits: list[m.Answer] = []
    free_bytes = _room_bytes(engine)
    for item, answer in zip(items, answers, strict=True):
        size = len(bytes(answer.value))
        if size <= free_bytes:
            fits.append(answer)
            free_bytes -= size
            continue
        if kind is m.Claim:
            # A report that comes again is told what its worker holds; a claim is not.
            tasks: m.Tasks = codec.decode(answer.value, m.Tasks)
            worker: str = codec.decode(item, kind).worker
            engine.give_back(namespace, worker, leases_of(tasks))
        fits.append(
            failed(OutcomeUnknown("the answers that share this message are too large for it: ask again"))
        )
    return fits


def failed(error: HoldfastError) -> m.Answer:
    """The answer that tells *error*."""
    return m.Answer(error.code, message=error.message, details=error.details or None)


def _hears_of_closed(engine: Engine) -> Callable[[Msg], None]:
    def hear(message: Msg) -> None:
        run_id = subjects.decode_token(message.subject.rpartition(".")[2])
        if run_id is not None and engine.outcomes.heard_closed(run_id):
            engine.spawner.spawn(engine.outcomes.look(run_id))

    return hear
