"""Signals that were written through the contract: kept in the order they arrived, taken once.

The workflow of a run that the engine drives does not see them: it gets those that a client sends.
"""

from __future__ import annotations

import msgspec

from holdfast.store.contract.addressing import lock, lock_known
from holdfast.store.contract.door import check_json, check_moment
from holdfast.store.contract.opening import Opened
from holdfast.store.session import Query
from holdfast.wire import codec
from holdfast.wire.records import WorkflowSignal


class SignalId(msgspec.Struct, kw_only=True):
    """The number of a signal."""

    id: int


FIND_SIGNAL = Query(
    """
    SELECT s.id
    FROM record_signal AS s
    WHERE s.run_id = $1::uuid AND s.request_id = $2 AND s.request_id IS NOT NULL
    """,
    SignalId,
)

INSERT_SIGNAL = Query(
    """
    INSERT INTO record_signal (run_id, name, payload, consumed, received_at, request_id)
    VALUES ($1::uuid, $2, $3, $4, $5, $6)
    RETURNING id
    """,
    SignalId,
)

# The workflow id is the caller's: the run that it names is locked.
CONSUME_SIGNALS = Query(
    """
    WITH taken AS (
        UPDATE record_signal AS s
        SET consumed = true
        WHERE s.run_id = $1::uuid AND s.name = $2 AND NOT s.consumed
        RETURNING s.id, s.name, s.payload, s.consumed, s.received_at, s.request_id
    )
    SELECT t.id, $3::text AS workflow_id, t.name, t.payload, t.consumed, t.received_at, t.request_id
    FROM taken AS t
    ORDER BY t.id
    """,
    WorkflowSignal,
)


async def send_signal(
    store: Opened, signal: WorkflowSignal, *, namespace: str = "main", run_id: str | None = None
) -> int:
    """The number of the signal, which is kept until it is consumed; numbers of a run rise in order of arrival.

    A `request_id` that the run knows gives the first signal's number and changes nothing. A closed run keeps
    signals too. Raises `NotFound` for an unknown workflow.
    """
    codec.check_text("signal name", signal.name)
    check_json(f"payload of signal {signal.name!r}", signal.payload)
    check_moment("received_at", signal.received_at)
    if signal.request_id is not None:
        codec.check_text("request_id", signal.request_id)
    async with store.writing() as writing:
        run = await lock_known(writing, namespace, signal.workflow_id, run_id)
        if signal.request_id is not None:
            known = await writing.one(FIND_SIGNAL, run.run_id, signal.request_id)
            if known is not None:
                return known.id
        (made,) = await writing.rows(
            INSERT_SIGNAL,
            run.run_id,
            signal.name,
            signal.payload,
            signal.consumed,
            signal.received_at,
            signal.request_id,
        )
        writing.tell(
            namespace,
            "SignalSent",
            "signal",
            str(made.id),
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            name=signal.name,
        )
        return made.id


async def consume_signals(
    store: Opened, workflow_id: str, name: str, *, namespace: str = "main", run_id: str | None = None
) -> list[WorkflowSignal]:
    """The signals called *name* that nobody consumed yet, in order of arrival; they count as consumed from now on.

    Of two callers at once, one gets a signal. Empty for an unknown workflow.
    """
    codec.check_text("signal name", name)
    async with store.writing() as writing:
        run = await lock(writing, namespace, workflow_id, run_id)
        if run is None:
            return []
        taken = await writing.rows(CONSUME_SIGNALS, run.run_id, name, run.workflow_id)
        for signal in taken:
            writing.tell(
                namespace,
                "SignalConsumed",
                "signal",
                str(signal.id),
                workflow_id=run.workflow_id,
                run_id=run.run_id,
                name=name,
            )
        return taken
