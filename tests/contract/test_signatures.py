"""The methods are called as the contract has it: by these names, with these arguments, in this order."""

from __future__ import annotations

import inspect

import pytest

from holdfast.store import Store

SIGNATURES = {
    "create_namespace": "name",
    "list_namespaces": "",
    "delete_namespace": "name",
    "get_namespace_stats": "namespace",
    "create_workflow": "workflow",
    "get_workflow": "id",
    "list_workflows": "namespace status workflow_type search_attrs_filter limit offset",
    "list_archivable_workflows": "cutoff limit",
    "mark_archived_and_purge": "workflow_id archive_uri archived_at",
    "upsert_search_attributes": "workflow_id patch_json",
    "update_workflow_status": "id status result error",
    "claim_workflow": "id worker_id",
    "mark_workflow_dispatchable": "workflow_id",
    "claim_workflow_task": "task_queue worker_id",
    "release_workflow_task": "workflow_id worker_id",
    "release_stale_dispatch_leases": "now timeout_secs",
    "append_event": "event",
    "list_events": "workflow_id",
    "get_event_count": "workflow_id",
    "create_activity": "activity",
    "get_activity": "id",
    "get_activity_by_workflow_seq": "workflow_id seq",
    "claim_activity": "task_queue worker_id",
    "requeue_activity_for_retry": "id next_attempt next_scheduled_at",
    "complete_activity": "id result error failed",
    "heartbeat_activity": "id details",
    "get_timed_out_activities": "now",
    "cancel_pending_activities": "workflow_id",
    "cancel_pending_timers": "workflow_id",
    "create_timer": "timer",
    "get_timer_by_workflow_seq": "workflow_id seq",
    "fire_due_timers": "now",
    "send_signal": "signal",
    "consume_signals": "workflow_id name",
    "create_schedule": "schedule",
    "get_schedule": "namespace name",
    "list_schedules": "namespace",
    "update_schedule_last_run": "namespace name last_run_at next_run_at workflow_id",
    "delete_schedule": "namespace name",
    "update_schedule": "namespace name patch",
    "set_schedule_paused": "namespace name paused",
    "register_worker": "worker",
    "heartbeat_worker": "id now",
    "list_workers": "namespace",
    "remove_dead_workers": "cutoff",
    "create_api_key": "key_hash prefix label created_at",
    "validate_api_key": "key_hash",
    "list_api_keys": "",
    "revoke_api_key": "prefix",
    "list_child_workflows": "parent_id",
    "create_snapshot": "workflow_id event_seq state_json",
    "get_latest_snapshot": "workflow_id",
    "get_queue_stats": "namespace",
    "try_acquire_scheduler_lock": "",
}
OF_A_WORKFLOW = {
    *("get_workflow", "mark_archived_and_purge", "upsert_search_attributes", "update_workflow_status"),
    *("claim_workflow", "mark_workflow_dispatchable", "release_workflow_task", "append_event", "list_events"),
    *("get_event_count", "create_activity", "get_activity_by_workflow_seq", "cancel_pending_activities"),
    *("cancel_pending_timers", "create_timer", "get_timer_by_workflow_seq", "send_signal", "consume_signals"),
    *("create_snapshot", "get_latest_snapshot"),
}


def test_the_methods_are_those_of_the_contract_in_its_order() -> None:
    assert [name for name in vars(Store) if not name.startswith("_")] == list(SIGNATURES)


@pytest.mark.parametrize("method", SIGNATURES)
def test_a_method_takes_the_arguments_of_the_contract(method: str) -> None:
    """What is ours beside them goes by its name, and may be left out."""
    _, *given = inspect.signature(getattr(Store, method)).parameters.values()

    by_place = [one.name for one in given if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    by_name = [one for one in given if one.kind is inspect.Parameter.KEYWORD_ONLY]
    assert by_place == SIGNATURES[method].split()
    assert len(by_place) + len(by_name) == len(given)
    assert all(one.default is not inspect.Parameter.empty for one in by_name)


@pytest.mark.parametrize("method", sorted(OF_A_WORKFLOW))
def test_whoever_names_a_workflow_may_name_its_namespace_and_run(method: str) -> None:
    parameters = inspect.signature(getattr(Store, method)).parameters

    assert (parameters["namespace"].default, parameters["run_id"].default) == ("main", None)
