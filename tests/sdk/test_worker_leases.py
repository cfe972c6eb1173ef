"""What a worker holds is counted once, extended in time, and never confused with what it held before."""

from __future__ import annotations

from holdfast.sdk.worker_leases import Leases
from holdfast.wire.messages import Lease


def leases(workflow_slots: int = 2, activity_slots: int = 2) -> tuple[Leases, list[str]]:
    freed: list[str] = []
    return Leases(workflow_slots, activity_slots, lambda: freed.append("free")), freed


def test_a_task_that_comes_twice_is_taken_once() -> None:
    held, _ = leases()

    assert held.take("r", 0, 1, 10.0, 0.0)
    assert not held.take("r", 0, 1, 10.0, 1.0)
    assert held.workflow_slots == 1


def test_a_newer_lease_replaces_the_older_one_and_not_the_other_way() -> None:
    held, _ = leases()
    held.take("r", 5, 1, 10.0, 0.0)

    assert held.take("r", 5, 3, 10.0, 0.0)
    assert not held.take("r", 5, 2, 10.0, 0.0)
    held.drop("r", 5, 1)

    assert held.all() == [Lease("r", 5, 3)]


def test_a_replaced_workflow_lease_does_not_take_a_second_slot() -> None:
    held, freed = leases()
    held.take("r", 0, 1, 10.0, 0.0)
    held.take("r", 0, 2, 10.0, 0.0)

    held.drop("r", 0, 2)

    assert held.workflow_slots == 2
    assert freed == ["free"]


def test_leases_are_due_after_a_third_of_their_length() -> None:
    held, _ = leases()
    held.take("r", 0, 1, 9.0, 0.0)
    held.take("r", 1, 1, 30.0, 0.0)

    assert held.due(2.9) == []
    assert held.due(3.1) == [Lease("r", 0, 1)]
    held.renew([Lease("r", 0, 1), Lease("r", 1, 99), Lease("gone", 1, 1)], 3.1)
    assert held.due(6.0) == []
    assert held.due(10.1) == [Lease("r", 0, 1), Lease("r", 1, 1)]


def test_a_worker_that_stops_has_no_free_slots() -> None:
    held, _ = leases()
    held.is_closed = True

    assert (held.workflow_slots, held.activity_slots) == (0, 0)


def test_activities_beyond_the_slots_do_not_make_them_negative() -> None:
    held, freed = leases(activity_slots=1)
    held.occupy()
    held.occupy()

    assert held.activity_slots == 0
    held.vacate()
    held.vacate()
    assert held.activity_slots == 1
    assert len(freed) == 2
