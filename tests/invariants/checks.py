"""What must hold of the database at any moment, as statements that return violations, and what must hold once it is calm.

The names are those of the invariants' list; the tables are those of `vocabulary`. No row means: it holds.
"""

from __future__ import annotations

CLOSING = "('WorkflowCompleted','WorkflowFailed','WorkflowCancelled','WorkflowTerminated','WorkflowTimedOut')"
CLOSES = "('ActivityCompleted','ActivityFailed','ActivityTimedOut','ActivityCancelled','TimerFired','TimerCancelled')"
# Nothing that code must be told.
SILENT = "('WorkflowTaskCompleted','WorkflowTaskFailed')"

SAFETY: dict[str, str] = {
    "gapless": "SELECT run_id FROM events GROUP BY run_id HAVING min(seq) <> 1 OR max(seq) <> count(*)",
    "last_seq": """
        SELECT r.run_id, r.last_seq, e.head
        FROM runs r LEFT JOIN (SELECT run_id, max(seq) head FROM events GROUP BY run_id) e USING (run_id)
        WHERE r.last_seq <> coalesce(e.head, 0)
    """,
    "retention": "SELECT run_id FROM runs r WHERE NOT EXISTS (SELECT FROM events e WHERE e.run_id = r.run_id)",
    "type_agrees": "SELECT run_id, seq, type, decoded_type FROM events WHERE type <> decoded_type",
    "one_start": "SELECT run_id, seq FROM events WHERE (type = 'WorkflowStarted') <> (seq = 1)",
    "terminal_once": f"SELECT run_id FROM events WHERE type IN {CLOSING} GROUP BY run_id HAVING count(*) > 1",
    "terminal_last": f"""
        SELECT e.run_id, e.seq FROM events e JOIN events t USING (run_id)
        WHERE t.type IN {CLOSING} AND e.seq > t.seq
    """,
    "status_agrees": f"""
        SELECT r.run_id, r.status, e.type FROM runs r JOIN events e ON e.run_id = r.run_id AND e.seq = r.last_seq
        WHERE (r.status = 'running') = (e.type IN {CLOSING}) OR (r.closed_at IS NULL) <> (r.status = 'running')
    """,
    "closed_has_open_work": """
        SELECT r.run_id FROM runs r
        WHERE r.status <> 'running' AND (
            EXISTS (SELECT FROM tasks t WHERE t.run_id = r.run_id)
            OR EXISTS (SELECT FROM timers t WHERE t.run_id = r.run_id AND t.state = 'pending')
            OR EXISTS (SELECT FROM activities a WHERE a.run_id = r.run_id AND a.closed_at IS NULL)
        )
    """,
    "one_open_run": """
        SELECT ns, workflow_id FROM runs WHERE status = 'running' GROUP BY ns, workflow_id HAVING count(*) > 1
    """,
    "start_dup": """
        SELECT ns, workflow_id, start_request_id FROM runs WHERE start_request_id IS NOT NULL
        GROUP BY ns, workflow_id, start_request_id HAVING count(*) > 1
    """,
    "close_once": f"""
        SELECT run_id, ref_seq FROM events WHERE type IN {CLOSES} GROUP BY run_id, ref_seq HAVING count(*) > 1
    """,
    "close_without_open": f"""
        SELECT c.run_id, c.seq, c.type FROM events c
        LEFT JOIN events o ON o.run_id = c.run_id AND o.seq = c.ref_seq AND o.seq < c.seq
            AND o.type = CASE WHEN c.type LIKE 'Activity%' THEN 'ActivityScheduled' ELSE 'TimerStarted' END
        WHERE (c.type IN {CLOSES} OR c.type = 'ActivityCancelRequested') AND o.seq IS NULL
    """,
    "fence_monotonic": """
        SELECT t.run_id, t.lease_token, r.fence FROM tasks t JOIN runs r USING (run_id)
        WHERE t.kind = 'workflow' AND t.lease_token <= r.fence
    """,
    "command_once": """
        SELECT run_id, cmd_seq FROM events
        WHERE type IN ('ActivityScheduled', 'TimerStarted') GROUP BY run_id, cmd_seq HAVING count(*) > 1
    """,
    "timer_early": """
        SELECT e.run_id, e.seq, e.recorded_at, t.fire_at FROM events e
        JOIN timers t ON t.run_id = e.run_id AND t.sched_seq = e.ref_seq
        WHERE e.type = 'TimerFired' AND e.recorded_at < t.fire_at
    """,
    "signal_dup": """
        SELECT ns, client_key FROM events WHERE type = 'SignalReceived' AND client_key IS NOT NULL
        GROUP BY ns, client_key HAVING count(*) > 1
    """,
    "clock_monotonic": """
        SELECT run_id, seq FROM (
            SELECT run_id, seq, recorded_at, lag(recorded_at) OVER (PARTITION BY run_id ORDER BY seq) p FROM events
        ) x WHERE recorded_at < p
    """,
    "ns_mix": """
        SELECT 'task', x.run_id FROM tasks x LEFT JOIN runs r USING (ns, run_id) WHERE r.run_id IS NULL
        UNION ALL
        SELECT 'activity', x.run_id FROM activities x LEFT JOIN runs r USING (ns, run_id) WHERE r.run_id IS NULL
        UNION ALL
        SELECT 'timer', x.run_id FROM timers x LEFT JOIN runs r USING (run_id) WHERE r.run_id IS NULL
        UNION ALL
        SELECT 'event', x.run_id FROM events x LEFT JOIN runs r USING (run_id) WHERE r.run_id IS NULL
    """,
    "outbox_within_history": """
        SELECT o.id, o.run_id FROM outbox o LEFT JOIN runs r USING (run_id)
        WHERE r.run_id IS NULL OR o.first_seq < 1 OR o.last_seq > r.last_seq OR o.first_seq > o.last_seq
    """,
    "stuck_run": f"""
        SELECT r.run_id, e.seq, e.type FROM runs r JOIN events e USING (run_id)
        WHERE r.status = 'running' AND e.wft_seq IS NULL AND e.type NOT IN {SILENT}
            AND e.seq > coalesce((
                SELECT max(m.seen_seq) FROM events m WHERE m.run_id = r.run_id AND m.type = 'WorkflowTaskCompleted'
            ), 0)
            AND NOT EXISTS (SELECT FROM tasks t WHERE t.run_id = r.run_id AND t.kind = 'workflow')
    """,
    # -- the ledger of the test's own clients and activities
    "start_lost": """
        SELECT c.* FROM client_log c
        WHERE c.op = 'start' AND c.outcome = 'ok' AND NOT EXISTS (SELECT FROM runs r WHERE r.run_id = c.run_id)
    """,
    "signal_lost": """
        SELECT c.* FROM client_log c
        WHERE c.op = 'signal' AND c.outcome = 'ok' AND NOT EXISTS (
            SELECT FROM events e
            WHERE e.run_id = c.run_id AND e.type = 'SignalReceived' AND e.client_key = c.key
        )
    """,
    "refused_but_applied": """
        SELECT c.* FROM client_log c WHERE c.outcome = 'refused' AND (
            EXISTS (SELECT FROM events e WHERE e.client_key = c.key AND e.type = 'SignalReceived')
            OR EXISTS (SELECT FROM runs r WHERE c.op = 'start' AND r.start_request_id = c.key)
        )
    """,
    "signal_order": """
        SELECT run_id, client FROM (
            SELECT c.run_id, c.client, e.seq,
                lag(e.seq) OVER (PARTITION BY c.run_id, c.client ORDER BY c.client_seq) p
            FROM client_log c
            JOIN events e ON e.run_id = c.run_id AND e.type = 'SignalReceived' AND e.client_key = c.key
            WHERE c.op = 'signal' AND c.outcome = 'ok'
        ) x WHERE seq < p
    """,
    "effects_over": """
        SELECT run_id, cmd_seq, token FROM effects GROUP BY run_id, cmd_seq, token HAVING count(*) > 1
    """,
    "effects_unearned": """
        SELECT f.run_id, f.cmd_seq, f.token, a.closed_token FROM effects f
        LEFT JOIN activities a USING (run_id, cmd_seq)
        WHERE a.run_id IS NULL OR (a.status = 'COMPLETED' AND f.token > a.closed_token)
    """,
    "effects_missing": """
        SELECT e.run_id, e.cmd_seq FROM events e
        WHERE e.type = 'ActivityCompleted' AND EXISTS (SELECT FROM effects) AND NOT EXISTS (
            SELECT FROM effects f JOIN activities a USING (run_id, cmd_seq)
            WHERE f.run_id = e.run_id AND f.cmd_seq = e.cmd_seq AND f.token = a.closed_token
        )
    """,
}
"""Hold at every instant."""

LIVENESS: dict[str, str] = {
    "timer_lost": """
        SELECT run_id, cmd_seq, now() - fire_at late FROM timers
        WHERE state = 'pending' AND fire_at < now() - interval '10 s'
    """,
    "dispatch_overdue": """
        SELECT run_id, cmd_seq, now() - available_at waited FROM tasks
        WHERE state = 'ready' AND available_at < now() - interval '10 s'
    """,
    "lease_stuck": """
        SELECT run_id, cmd_seq FROM tasks
        WHERE state = 'leased' AND (lease_expires_at IS NULL OR lease_expires_at < now() - interval '10 s')
    """,
    "outbox_overdue": "SELECT id FROM outbox WHERE created_at < now() - interval '10 s'",
}
"""Hold within their bound while nothing is broken."""
