"""What `decide` is asked. Data only.

Reports and heartbeats of workers are decided as they come over the wire; clients'
requests are wrapped with what the shell found out about them, and the clock's requests
have no message of their own.
"""

from __future__ import annotations

import msgspec

from holdfast.core.state import Run
from holdfast.wire import messages as m


class OpenRun(msgspec.Struct, frozen=True):
    """Start a run with the new id `run_id`.

    `newest` is the newest run of the workflow id, `repeat` the run that this request id started before.
    """

    start: m.Start
    hash: bytes
    run_id: str
    newest: Run | None = None
    repeat: Run | None = None


class Ask(msgspec.Struct, frozen=True):
    """A client's request to an existing run; `hash` stands for its whole body."""

    message: m.Signal | m.Cancel | m.Terminate
    hash: bytes


class FireTimer(msgspec.Struct, frozen=True):
    """Timer `seq` looked due to whoever asks."""

    seq: int


class ExpireTask(msgspec.Struct, frozen=True):
    """The deadline of task `seq` looked past to whoever asks. `spare_leases` leaves mere silence unpunished."""

    seq: int
    spare_leases: bool = False


Request = (
    Ask
    | FireTimer
    | ExpireTask
    | m.CompleteWorkflowTask
    | m.FailWorkflowTask
    | m.CompleteActivity
    | m.FailActivity
    | m.CancelActivity
    | m.ReleaseTask
    | m.ActivityHeartbeat
)
