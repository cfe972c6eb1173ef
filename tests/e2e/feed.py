"""The change feed as a consumer outside of Holdfast reads it: with a NATS client of its own, from the stream."""

from __future__ import annotations

import nats
from nats.js.api import DeliverPolicy

from holdfast.wire import codec
from holdfast.wire.events import StoredEvent


async def read_feed(nats_url: str) -> dict[str, list[int]]:
    """The event numbers of each run, in the order in which the stream has them."""
    connection = await nats.connect(nats_url)
    try:
        stream = connection.jetstream()
        state = (await stream.stream_info("HF_EVENT")).state
        found: dict[str, list[int]] = {}
        if not state.messages:
            return found
        subscription = await stream.subscribe(
            "hf.event.>", stream="HF_EVENT", ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
        )
        while True:
            message = await subscription.next_msg(timeout=10)
            events: list[StoredEvent] = codec.decode(message.data, list[StoredEvent])
            run_id = (message.headers or {})["Holdfast-Run"]
            found.setdefault(run_id, []).extend(event.seq for event in events)
            if message.metadata.sequence.stream >= state.last_seq:
                return found
    finally:
        await connection.close()
