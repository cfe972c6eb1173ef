"""`Store`: the 54 methods of the contract, in its order. Each is bound from the module that holds its statements."""

from __future__ import annotations

from holdfast.store.contract import (
    activities,
    api_keys,
    archiving,
    dispatch,
    events,
    namespaces,
    scheduler_lock,
    schedules,
    signals,
    snapshots,
    stats,
    timers,
    workers,
    workflow_views,
    workflows,
)
from holdfast.store.contract.opening import Opened


class Store(Opened):
    """A store on one database: `await Store.connect(url)`, or `async with await Store.connect(url) as store`.

    All methods are coroutines, single transactions, and safe to call from many processes at once. Errors are the
    classes of `holdfast.exceptions`; times are epoch seconds.
    """

    create_namespace = namespaces.create_namespace
    list_namespaces = namespaces.list_namespaces
    delete_namespace = namespaces.delete_namespace
    get_namespace_stats = stats.get_namespace_stats

    create_workflow = workflows.create_workflow
    get_workflow = workflow_views.get_workflow
    list_workflows = workflow_views.list_workflows
    list_archivable_workflows = archiving.list_archivable_workflows
    mark_archived_and_purge = archiving.mark_archived_and_purge
    upsert_search_attributes = workflows.upsert_search_attributes
    update_workflow_status = workflows.update_workflow_status
    claim_workflow = dispatch.claim_workflow
    mark_workflow_dispatchable = dispatch.mark_workflow_dispatchable
    claim_workflow_task = dispatch.claim_workflow_task
    release_workflow_task = dispatch.release_workflow_task
    release_stale_dispatch_leases = dispatch.release_stale_dispatch_leases

    append_event = events.append_event
    list_events = events.list_events
    get_event_count = events.get_event_count

    create_activity = activities.create_activity
    get_activity = activities.get_activity
    get_activity_by_workflow_seq = activities.get_activity_by_workflow_seq
    claim_activity = dispatch.claim_activity
    requeue_activity_for_retry = activities.requeue_activity_for_retry
    complete_activity = activities.complete_activity
    heartbeat_activity = activities.heartbeat_activity
    get_timed_out_activities = activities.get_timed_out_activities
    cancel_pending_activities = activities.cancel_pending_activities

    cancel_pending_timers = timers.cancel_pending_timers
    create_timer = timers.create_timer
    get_timer_by_workflow_seq = timers.get_timer_by_workflow_seq
    fire_due_timers = timers.fire_due_timers

    send_signal = signals.send_signal
    consume_signals = signals.consume_signals

    create_schedule = schedules.create_schedule
    get_schedule = schedules.get_schedule
    list_schedules = schedules.list_schedules
    update_schedule_last_run = schedules.update_schedule_last_run
    delete_schedule = schedules.delete_schedule
    update_schedule = schedules.update_schedule
    set_schedule_paused = schedules.set_schedule_paused

    register_worker = workers.register_worker
    heartbeat_worker = workers.heartbeat_worker
    list_workers = workers.list_workers
    remove_dead_workers = workers.remove_dead_workers

    create_api_key = api_keys.create_api_key
    validate_api_key = api_keys.validate_api_key
    list_api_keys = api_keys.list_api_keys
    revoke_api_key = api_keys.revoke_api_key

    list_child_workflows = workflow_views.list_child_workflows
    create_snapshot = snapshots.create_snapshot
    get_latest_snapshot = snapshots.get_latest_snapshot
    get_queue_stats = stats.get_queue_stats
    try_acquire_scheduler_lock = scheduler_lock.try_acquire_scheduler_lock
