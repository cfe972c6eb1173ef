"""The error families keep what ported code and the wire rely on."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import exceptions as e


def _activity_error(cause: BaseException | None = None) -> e.ActivityError:
    error = e.ActivityError(
        "x",
        scheduled_event_id=1,
        started_event_id=0,
        identity="",
        activity_type="a",
        activity_id="1",
        retry_state=None,
    )
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_cancelled"),
    [
        (asyncio.CancelledError(), True),
        (e.CancelledError(), True),
        (_activity_error(e.CancelledError()), True),
        (_activity_error(e.ApplicationError("no")), False),
        (_activity_error(), False),
        (ValueError(), False),
    ],
)
def test_cancellation_is_recognised_in_all_its_forms(error: BaseException, is_cancelled: bool) -> None:
    assert e.is_cancelled_exception(error) is is_cancelled


def test_every_service_error_has_a_code_and_a_status_of_its_own() -> None:
    kinds = [
        e.Invalid,
        e.NotFound,
        e.AlreadyExists,
        e.Refused,
        e.LeaseLost,
        e.Unavailable,
        e.OutcomeUnknown,
        e.DeadlineExceeded,
        e.PermissionDenied,
    ]

    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({e.STATUS_OF_CODE[kind.code] for kind in kinds}) == len(kinds)


def test_a_service_error_carries_its_facts_for_programs() -> None:
    error = e.NotFound("workflow 'x' is not here", details={"workflow_id": "x"})

    assert str(error) == error.message == "workflow 'x' is not here"
    assert error.details == {"workflow_id": "x"}
    assert e.Invalid("no").details == {}


def test_an_application_error_shows_its_type_in_front() -> None:
    error = e.ApplicationError("gone", 1, type="Missing")

    assert str(error) == "Missing: gone"
    assert error.message == "gone"
    assert list(error.details) == [1]


def test_a_retryable_error_is_known_by_its_class() -> None:
    assert issubclass(e.OutcomeUnknown, e.Unavailable)
    assert issubclass(e.DeadlineExceeded, e.Unavailable)
    assert not issubclass(e.Refused, e.Unavailable)
    assert issubclass(e.LeaseLost, e.Refused)
