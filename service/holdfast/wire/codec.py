"""Bytes to structs and back, and what is refused at the door. Pure.

Every decoder is made once. Whatever does not decode, or decodes to something Postgres
would refuse later (NUL, integers beyond 64 bits, text without end), raises `Invalid`
here, naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from holdfast.exceptions import Invalid
from holdfast.wire import commands as c
from holdfast.wire import messages as m
from holdfast.wire import schedules as sch
from holdfast.wire import visibility as vis
from holdfast.wire.commands import AnyCommand
from holdfast.wire.events import AnyEvent, Event
from holdfast.wire.failures import Failure

SEQ_MAX = 2**31 - 1
SECONDS_MAX = 3.2e9
_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_encoder = msgspec.msgpack.Encoder()
_event_decoder = msgspec.msgpack.Decoder(AnyEvent)
_frame_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_answers_decoder = msgspec.msgpack.Decoder(list[m.Answer])

# What msgspec raises for bytes that are not what they should be.
_BROKEN = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError)

REQUESTS: dict[str, Any] = {
    "start": m.Start,
    "signal": m.Signal,
    "cancel": m.Cancel,
    "terminate": m.Terminate,
    "describe": m.Describe,
    "history": m.History,
    "list": m.List,
    "count": vis.Count,
    "why": vis.Why,
    "result": m.Result,
    "claim": m.Claim,
    "report": m.AnyReport,
    "heartbeat": m.WorkerHeartbeat,
    "activity_heartbeat": m.ActivityHeartbeat,
    "create_schedule": sch.CreateSchedule,
    "update_schedule": sch.UpdateSchedule,
    "pause_schedule": sch.PauseSchedule,
    "trigger_schedule": sch.TriggerSchedule,
    "backfill_schedule": sch.BackfillSchedule,
    "delete_schedule": sch.DeleteSchedule,
    "describe_schedule": sch.DescribeSchedule,
    "list_schedules": sch.ListSchedules,
}
"""The request type of each verb."""

VERBS = tuple(REQUESTS)

RESPONSES: dict[str, Any] = {
    "start": m.Started,
    "signal": m.Done,
    "cancel": m.Done,
    "terminate": m.Done,
    "describe": m.Description,
    "history": m.HistoryPage,
    "list": m.ListPage,
    "count": vis.Counted,
    "why": vis.Because,
    "result": m.Outcome,
    "claim": m.Tasks,
    "report": m.Reported,
    "heartbeat": m.WorkerAnswer,
    "activity_heartbeat": m.HeartbeatAnswer,
    "create_schedule": sch.ScheduleDone,
    "update_schedule": sch.ScheduleDone,
    "pause_schedule": sch.ScheduleDone,
    "trigger_schedule": sch.ScheduleDone,
    "backfill_schedule": sch.ScheduleDone,
    "delete_schedule": sch.ScheduleDone,
    "describe_schedule": sch.ScheduleDescription,
    "list_schedules": sch.SchedulePage,
}
"""The response type of each verb."""


def encode(value: object) -> bytes:
    """Msgpack bytes of a wire struct. Raises `Invalid` for text that has no UTF-8 form or integers beyond 64 bits."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError as error:
        raise Invalid(
            f"{type(value).__name__} holds text that is not valid Unicode (a lone surrogate at position "
            f"{error.start}): replace it before sending"
        ) from None
    except (OverflowError, RecursionError) as error:
        raise Invalid(f"{type(value).__name__} cannot be encoded: {error}") from None


@cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    return msgspec.msgpack.Decoder(kind).decode


def decode(data: bytes | msgspec.Raw, kind: Any) -> Any:
    """The struct of type *kind* in *data*. Raises `Invalid` naming what was found and where."""
    try:
        return _decoder(kind)(data)
    except _BROKEN as error:
        name = getattr(kind, "__name__", str(kind))
        raise Invalid(f"{len(bytes(data))} bytes are not a {name}: {error}") from None


def decode_frame(data: bytes) -> list[msgspec.Raw]:
    """The encoded items of a frame."""
    try:
        return _frame_decoder.decode(data)
    except _BROKEN as error:
        raise Invalid(f"{len(data)} bytes are not a frame (a msgpack array of requests): {error}") from None


def encode_frame(items: list[bytes]) -> bytes:
    """A frame of already encoded items."""
    return _encoder.encode([msgspec.Raw(item) for item in items])


def decode_answers(data: bytes) -> list[m.Answer]:
    """The answers of a reply frame."""
    try:
        return _answers_decoder.decode(data)
    except _BROKEN as error:
        raise Invalid(f"{len(data)} bytes are not a list of answers: {error}") from None


def raw(data: bytes) -> msgspec.Raw:
    """Bytes that are encoded already, to be passed through."""
    return msgspec.Raw(data)


def encode_event(event: Event) -> bytes:
    """An event as it is stored."""
    return _encoder.encode(event)


def decode_event(data: bytes | msgspec.Raw) -> AnyEvent:
    """An event as it was stored. Raises `Invalid` for anything else."""
    try:
        event: AnyEvent = _event_decoder.decode(data)
    except _BROKEN as error:
        raise Invalid(f"{len(bytes(data))} stored bytes are not an event: {error}") from None
    return event


def check_request(request: Any) -> None:
    """Refuse what would be refused later and less clearly: see `check_text`, payload sizes, enumerations."""
    match request:
        case m.Start():
            check_text("workflow_id", request.workflow_id)
            check_text("workflow_type", request.workflow_type)
            check_text("task_queue", request.task_queue)
            check_text("request_id", request.request_id)
            _check_choice("id_reuse", request.id_reuse, ("allow", "allow_if_failed", "reject"))
            _check_choice("id_conflict", request.id_conflict, ("fail", "use_existing", "terminate_existing"))
            check_payload("input", request.input, is_array=True)
            _check_start_options(request)
        case m.Signal():
            check_text("workflow_id", request.workflow_id)
            check_text("name", request.name)
            check_text("request_id", request.request_id)
            check_payload("input", request.input, is_array=True)
        case m.Cancel() | m.Terminate():
            check_text("workflow_id", request.workflow_id)
            check_text("request_id", request.request_id)
            check_text("reason", request.reason, may_be_empty=True)
            if isinstance(request, m.Terminate):
                _check_details("details", request.details)
        case m.Describe() | m.History() | m.Result() | vis.Why():
            check_text("workflow_id", request.workflow_id)
        case m.Claim() | m.WorkerHeartbeat():
            check_text("worker", request.worker)
            check_text("task_queue", request.task_queue)
            if isinstance(request, m.WorkerHeartbeat):
                for lease in request.leases:
                    _check_number("seq of a lease", lease.seq, 0)
                    _check_number("fence of a lease", lease.fence, 0, 2**63 - 1)
        case m.Report() | m.ActivityHeartbeat():
            _check_report(request)
        case _:
            _check_schedule_request(request)


def _check_start_options(request: m.Start) -> None:
    for name in ("execution_timeout_s", "run_timeout_s", "task_timeout_s"):
        seconds = getattr(request, name)
        if seconds is not None and not 0 < seconds < SECONDS_MAX:
            raise Invalid(f"{name} is {seconds}: expected 0 < seconds < {SECONDS_MAX:g}")
    if not 0 <= request.start_delay_s < SECONDS_MAX:
        raise Invalid(f"start_delay_s is {request.start_delay_s}: expected 0 <= seconds < {SECONDS_MAX:g}")
    _check_number("priority", request.priority, 0, 5)
    _check_payload_object("memo", request.memo)
    _check_payload_object("search_attributes", request.search_attributes)
    check_text("summary", request.summary, may_be_empty=True)
    check_payload("details", encode_text(request.details))


def _check_payload_object(field: str, text: bytes) -> None:
    if text:
        check_payload(field, text)


def encode_text(text: str) -> bytes:
    """Text as JSON."""
    return msgspec.json.encode(text)


def _check_schedule_request(request: Any) -> None:
    match request:
        case sch.ListSchedules():
            if request.cursor is not None:
                check_text("cursor", request.cursor)
        case sch.DescribeSchedule():
            check_text("schedule_id", request.schedule_id)
        case sch.CreateSchedule() | sch.UpdateSchedule():
            check_text("schedule_id", request.schedule_id)
            check_text("request_id", request.request_id)
            # The other fields are the store's to check.
            check_payload("input", request.schedule.input, is_array=True)
            if request.schedule.remaining_actions is not None:
                _check_number("remaining_actions", request.schedule.remaining_actions, 0)
        case sch.PauseSchedule() | sch.TriggerSchedule() | sch.BackfillSchedule() | sch.DeleteSchedule():
            check_text("schedule_id", request.schedule_id)
            check_text("request_id", request.request_id)


def _check_report(request: Any) -> None:
    check_text("worker", request.worker)
    # Number 0 stands for the workflow task; there is no activity of that number.
    match request:
        case m.CompleteWorkflowTask():
            _check_moment("now", request.now)
            _check_named(request.commands)
        case m.FailWorkflowTask():
            _check_choice("cause", request.cause, TASK_FAILURE_CAUSES)
            check_failure("failure", request.failure)
        case m.CompleteActivity():
            _check_number("seq of the activity", request.seq, 1)
            check_payload(f"result of activity {request.seq}", request.result)
            if request.turn is not None:
                _check_moment("now of the turn", request.turn.now)
                _check_named(request.turn.commands)
        case m.FailActivity():
            _check_number("seq of the activity", request.seq, 1)
            check_failure(f"failure of activity {request.seq}", request.failure)
        case m.CancelActivity():
            _check_number("seq of the activity", request.seq, 1)
            _check_details(f"details of activity {request.seq}", request.details)
        case m.ActivityHeartbeat():
            _check_number("seq of the activity", request.seq, 1)
            _check_details(f"heartbeat of activity {request.seq}", request.details)
        case m.ReleaseTask():
            _check_number("seq of the task", request.seq, 0)


TASK_FAILURE_CAUSES = (
    "unhandled_failure",
    "nondeterminism",
    "payload",
    "unknown_workflow_type",
    "bad_commands",
    "lease_expired",
)
"""Why a workflow task failed, as `WorkflowTaskFailed.cause` has it."""


def check_text(field: str, text: object, *, may_be_empty: bool = False) -> None:
    """A name or id: 1-1,000 characters, at most 2,000 bytes of UTF-8, no NUL. Anything else goes."""
    if not isinstance(text, str):
        raise Invalid(f"{field} is of type {type(text).__name__}: expected text")
    if not text and not may_be_empty:
        raise Invalid(f"{field} is empty: expected 1 to {m.TEXT_CHARS_MAX} characters")
    if len(text) > m.TEXT_CHARS_MAX or (
        len(text) > 500 and len(text.encode("utf-8", "replace")) > m.TEXT_BYTES_MAX
    ):
        raise Invalid(
            f"{field} has {len(text)} characters ({len(text.encode('utf-8', 'replace'))} bytes): "
            f"expected at most {m.TEXT_CHARS_MAX} characters and {m.TEXT_BYTES_MAX} bytes"
        )
    if "\x00" in text:
        raise Invalid(f"{field} holds a NUL character at position {text.index(chr(0))}: remove it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Invalid(
                f"{field} holds a lone surrogate at position {error.start}: it is not valid Unicode"
            ) from None


def is_run_id(text: str) -> bool:
    """Whether *text* is spelled as run ids are."""
    return _RUN_ID.fullmatch(text) is not None


def check_run_id(run_id: str) -> None:
    """A run id as a start answers it: the lower-case text of a UUID."""
    if not is_run_id(run_id):
        raise Invalid(f"run id {run_id[:80]!r} is not a UUID: expected the run_id that a start answered")


def _check_number(field: str, number: int, least: int, most: int = SEQ_MAX) -> None:
    if not least <= number <= most:
        raise Invalid(f"{field} is {number}: expected {least} to {most}")


def _check_named(commands: list[AnyCommand]) -> None:
    """The numbers by which rows are looked up; those of new things are decided about with their order."""
    for command in commands:
        if isinstance(command, c.CancelTimer | c.RequestCancelActivity):
            _check_number("seq of what a command cancels", command.seq, 1)


def check_payload(field: str, text: bytes, *, is_array: bool = False) -> None:
    """A payload: JSON text (an array of arguments when *is_array*) of at most 2 MiB."""
    if len(text) > m.PAYLOAD_BYTES_MAX:
        raise Invalid(
            f"{field} has {len(text):,} bytes: expected at most {m.PAYLOAD_BYTES_MAX:,} (2 MiB); "
            "store large values elsewhere and pass a reference"
        )
    if is_array and text == b"[]":
        return
    try:
        # The JSON decoder lets strings pass that are not UTF-8.
        if not text.isascii():
            text.decode()
        _json_array(text) if is_array else _json_any(text)
    except _BROKEN as error:
        kind = "a JSON array" if is_array else "JSON"
        raise Invalid(f"{field} ({len(text)} bytes) is not {kind}: {error}") from None


def _check_moment(field: str, epoch_s: float) -> None:
    """A time that code was told: every replay is told it again, so it must be one."""
    if not 0 <= epoch_s < 253_402_300_800:
        raise Invalid(f"{field} is {epoch_s}: expected epoch seconds before the year 10000")


def _check_details(field: str, text: bytes) -> None:
    if text:
        check_payload(field, text, is_array=True)


def check_failure(field: str, failure: Failure) -> None:
    """A failure: at most `FAILURE_LINKS_MAX` links, each with details that are payloads."""
    link: Failure | None = failure
    for _ in range(FAILURE_LINKS_MAX):
        if link is None:
            return
        _check_details(f"details of the {field}", link.details)
        _check_details(f"last heartbeat of the {field}", link.last_heartbeat)
        link = link.cause
    if link is not None:
        raise Invalid(f"{field} has more than {FAILURE_LINKS_MAX} causes: cut the chain")


FAILURE_LINKS_MAX = 100
"""A longer chain could not be encoded everywhere that a shorter one can be decoded."""

_json_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_json_any = msgspec.json.Decoder(msgspec.Raw).decode


def check_commands(commands: list[AnyCommand]) -> None:
    """Payload sizes and texts of a batch of commands; the rules about their order live in `core.decide`."""
    for command in commands:
        match command:
            case c.ScheduleActivity():
                check_text("activity name", command.name)
                check_text("activity_id", command.activity_id, may_be_empty=True)
                if command.task_queue is not None:
                    check_text("task_queue", command.task_queue)
                check_payload(f"input of activity {command.seq}", command.input, is_array=True)
            case c.RecordMarker():
                check_text("marker name", command.name)
                check_payload(f"value of marker {command.name!r}", command.value)
            case c.UpsertSearchAttributes():
                check_payload("search_attributes", command.search_attributes)
            case c.UpsertMemo():
                check_payload("memo", command.memo)
            case c.CompleteWorkflow():
                check_payload("workflow result", command.result)
            case c.FailWorkflow():
                check_failure("workflow failure", command.failure)
            case c.CancelWorkflow():
                _check_details("details of the cancellation", command.details)


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise Invalid(f"{field} is {value!r}: expected one of {', '.join(choices)}")
