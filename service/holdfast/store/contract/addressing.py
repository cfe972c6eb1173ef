"""Find the run that a workflow id names, and what is refused at the door.

`driven` runs are the engine's: they have a history, and only the engine changes them.
"""

from __future__ import annotations

import datetime as dt
import math

import msgspec

from holdfast.exceptions import Invalid, NotFound, Refused
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Query
from holdfast.wire import codec

JSON_BYTES_MAX = 16 * 1024 * 1024
EPOCH_MAX = 253_402_300_800.0
EPOCH_MIN = -62_135_596_800.0


class Addressed(msgspec.Struct, kw_only=True):
    """The run that an id names."""

    run_id: str
    namespace: str
    workflow_id: str
    task_queue: str
    status: str
    is_closed: bool
    is_driven: bool


LOCK_ADDRESSED = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        r.status,
        r.closed_at IS NOT NULL AS is_closed,
        r.last_seq > 0 AS is_driven
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
    ORDER BY r.run_id DESC
    LIMIT 1
    FOR UPDATE
    """,
    Addressed,
)

FIND_ADDRESSED = Query(
    """
    SELECT
        r.run_id::text AS run_id,
        r.namespace,
        r.workflow_id,
        r.task_queue,
        r.status,
        r.closed_at IS NOT NULL AS is_closed,
        r.last_seq > 0 AS is_driven
    FROM run AS r
    WHERE r.namespace = $1 AND r.workflow_id = $2 AND ($3::uuid IS NULL OR r.run_id = $3)
    ORDER BY r.run_id DESC
    LIMIT 1
    """,
    Addressed,
)


async def lock(writing: Writing, namespace: str, workflow_id: str, run_id: str | None) -> Addressed | None:
    """The newest run of the id, or *run_id* if it belongs to it, locked until the transaction ends."""
    check_address(namespace, workflow_id, run_id)
    return await writing.one(LOCK_ADDRESSED, namespace, workflow_id, run_id)


async def find(store: Opened, namespace: str, workflow_id: str, run_id: str | None) -> Addressed | None:
    """As `lock`, without a lock."""
    check_address(namespace, workflow_id, run_id)
    return await store.one(FIND_ADDRESSED, namespace, workflow_id, run_id)


async def lock_known(writing: Writing, namespace: str, workflow_id: str, run_id: str | None) -> Addressed:
    """As `lock`. Raises `NotFound` for an unknown one: nothing can be added to it."""
    found = await lock(writing, namespace, workflow_id, run_id)
    if found is None:
        of_run = f", run {run_id}" if run_id else ""
        raise NotFound(f"no workflow {workflow_id!r}{of_run} in namespace {namespace!r}: create it first")
    return found


def not_driven(run: Addressed, what: str) -> None:
    """Raise `Refused` for a run of the engine's; *what* is what was asked for, as in "set its status"."""
    if run.is_driven:
        raise Refused(
            f"workflow {run.workflow_id!r} (run {run.run_id}) is driven by the engine, which alone may {what}: "
            "use the client (signal, cancel, terminate) instead"
        )


def check_address(namespace: str, workflow_id: str, run_id: str | None) -> None:
    """Names that Postgres can take; a run id is a UUID."""
    codec.check_text("namespace", namespace)
    codec.check_text("workflow id", workflow_id)
    if run_id is not None:
        codec.check_run_id(run_id)


def check_moment(field: str, epoch_s: float | None) -> None:
    """A time that has a date: finite, from year 1 to 9999. None passes."""
    if epoch_s is None:
        return
    if not (math.isfinite(epoch_s) and EPOCH_MIN <= epoch_s < EPOCH_MAX):
        raise Invalid(f"{field} is {epoch_s}: expected epoch seconds between the years 1 and 9999")


def moment(epoch_s: float) -> dt.datetime:
    """The same moment as Postgres takes it, to the microsecond."""
    whole = math.floor(epoch_s)
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(
        seconds=whole, microseconds=round((epoch_s - whole) * 1_000_000)
    )


def check_json(field: str, text: str | None) -> None:
    """JSON text, or None. NUL (also as an escape), lone surrogates and endless text do not pass."""
    if text is None:
        return
    if len(text) > JSON_BYTES_MAX:
        raise Invalid(f"{field} has {len(text):,} characters: expected at most {JSON_BYTES_MAX:,}")
    check_unicode(field, text)


def check_unicode(field: str, text: str | None) -> None:
    """Text that Postgres can take: no NUL, no lone surrogate. None passes."""
    if text is None:
        return
    if "\x00" in text:
        raise Invalid(f"{field} holds a NUL character at position {text.index(chr(0))}: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            f"{field} holds a lone surrogate at position {error.start}: it is not valid Unicode"
        ) from None


def can_be_stored(text: str) -> bool:
    """Whether Postgres could hold *text*: what it cannot hold is not there."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def check_number(field: str, number: int, least: int, most: int) -> None:
    """A whole number in range."""
    if not least <= number <= most:
        raise Invalid(f"{field} is {number!r}: expected a whole number from {least} to {most}")
