"""`Model`: the store contract in memory, to hold the real store against. It knows the rules, and no database."""

from __future__ import annotations

from tests.contract import model_children, model_names, model_runs
from tests.contract.model_state import State


class Model(State):
    """The 54 methods, in the contract's order. None of them waits for anything."""

    create_namespace = model_names.create_namespace
    list_namespaces = model_names.list_namespaces
    delete_namespace = model_names.delete_namespace
    get_namespace_stats = model_names.get_namespace_stats
    create_workflow = model_runs.create_workflow
    get_workflow = model_runs.get_workflow
    list_workflows = model_runs.list_workflows
    list_archivable_workflows = model_runs.list_archivable_workflows
    mark_archived_and_purge = model_runs.mark_archived_and_purge
    upsert_search_attributes = model_runs.upsert_search_attributes
    update_workflow_status = model_runs.update_workflow_status
    claim_workflow = model_runs.claim_workflow
    mark_workflow_dispatchable = model_runs.mark_workflow_dispatchable
    claim_workflow_task = model_runs.claim_workflow_task
    release_workflow_task = model_runs.release_workflow_task
    release_stale_dispatch_leases = model_runs.release_stale_dispatch_leases
    append_event = model_runs.append_event
    list_events = model_runs.list_events
    get_event_count = model_runs.get_event_count
    create_activity = model_children.create_activity
    get_activity = model_children.get_activity
    get_activity_by_workflow_seq = model_children.get_activity_by_workflow_seq
    claim_activity = model_children.claim_activity
    requeue_activity_for_retry = model_children.requeue_activity_for_retry
    complete_activity = model_children.complete_activity
    heartbeat_activity = model_children.heartbeat_activity
    get_timed_out_activities = model_children.get_timed_out_activities
    cancel_pending_activities = model_children.cancel_pending_activities
    cancel_pending_timers = model_children.cancel_pending_timers
    create_timer = model_children.create_timer
    get_timer_by_workflow_seq = model_children.get_timer_by_workflow_seq
    fire_due_timers = model_children.fire_due_timers
    send_signal = model_children.send_signal
    consume_signals = model_children.consume_signals
    create_schedule = model_names.create_schedule
    get_schedule = model_names.get_schedule
    list_schedules = model_names.list_schedules
    update_schedule_last_run = model_names.update_schedule_last_run
    delete_schedule = model_names.delete_schedule
    update_schedule = model_names.update_schedule
    set_schedule_paused = model_names.set_schedule_paused
    register_worker = model_names.register_worker
    heartbeat_worker = model_names.heartbeat_worker
    list_workers = model_names.list_workers
    remove_dead_workers = model_names.remove_dead_workers
    create_api_key = model_names.create_api_key
    validate_api_key = model_names.validate_api_key
    list_api_keys = model_names.list_api_keys
    revoke_api_key = model_names.revoke_api_key
    list_child_workflows = model_runs.list_child_workflows
    create_snapshot = model_runs.create_snapshot
    get_latest_snapshot = model_runs.get_latest_snapshot
    get_queue_stats = model_names.get_queue_stats
    try_acquire_scheduler_lock = model_names.try_acquire_scheduler_lock
