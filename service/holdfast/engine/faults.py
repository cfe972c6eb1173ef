"""What is told of a request that our own code raised on: all of it to the log, and to the caller that it is our fault."""

from __future__ import annotations

import logging

from holdfast.core.requests import Ask
from holdfast.engine.transact import Change
from holdfast.exceptions import Internal

log = logging.getLogger("holdfast.engine")


def failed_inside(change: Change, error: Exception) -> Internal:
    """What the caller hears of *error*. Logged here, once, with its traceback and with what finds the request again."""
    request = change.request.message if isinstance(change.request, Ask) else change.request
    address = change.address
    facts = {
        "request": type(request).__name__,
        "namespace": change.namespace,
        "workflow_id": address.workflow_id if address else "",
        "run_id": (address.run_id if address else change.run_id) or "",
        # A worker's report has no id of its own: its lease stands for it.
        **{name: str(getattr(request, name, "")) for name in ("request_id", "worker", "seq", "fence")},
    }
    told = {name: value for name, value in facts.items() if value}
    log.error("failed inside: %s", ", ".join(f"{n}={v!r}" for n, v in told.items()), exc_info=error)
    return Internal(
        f"{facts['request']} failed inside the service ({type(error).__name__}), whose log has the cause: report it; "
        "the same request will fail again",
        details=told,
    )


def failed_together(count: int, error: Exception) -> None:
    """Log that *count* requests failed in one transaction; if each of them succeeds alone, this is all that is told."""
    log.error("%d requests failed inside together, trying each alone", count, exc_info=error)
