-- The schema as it stands after all migrations, for reading. Nothing applies this file: `holdfast migrate` applies
-- the numbered ones beside it, and a test compares what both leave behind. Runs with search_path holdfast.

CREATE TABLE namespace (
    name text PRIMARY KEY,
    feed text NOT NULL DEFAULT 'full' CHECK (feed IN ('full', 'lifecycle', 'off')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retention_s double precision CHECK (retention_s >= 0) -- of closed runs' histories; null for the service's own
);

INSERT INTO namespace (name)
VALUES ('main');

-- Narrow and hot: no payloads. Only closing changes an indexed column, so every other update is HOT.
CREATE TABLE run (
    run_id uuid PRIMARY KEY,
    last_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    fence bigint NOT NULL,
    done_fence bigint NOT NULL,
    last_seq integer NOT NULL,
    last_message_seq integer NOT NULL,
    command_seq integer NOT NULL,
    done_seq integer NOT NULL,
    done_marker integer NOT NULL,
    done_head integer NOT NULL,
    open_activities integer NOT NULL,
    open_timers integer NOT NULL,
    sticky_seq integer NOT NULL,
    is_cancel_requested boolean NOT NULL,
    namespace text NOT NULL,
    workflow_id text NOT NULL,
    workflow_type text NOT NULL,
    task_queue text NOT NULL,
    status text NOT NULL,
    request_id text NOT NULL,
    request_hash bytea NOT NULL,
    sticky_worker text,
    task_failure_cause text,
    task_failure bytea,
    archived_at timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);

-- At most one open run per workflow id: what makes two racing starts one run.
CREATE UNIQUE INDEX run_open ON run (namespace, workflow_id) WHERE closed_at IS NULL;

-- The newest run of an id; run ids rise with time.
CREATE INDEX run_chain ON run (namespace, workflow_id, run_id);

CREATE INDEX run_newest ON run (namespace, created_at DESC, workflow_id);
CREATE INDEX run_retained ON run (namespace, closed_at) WHERE closed_at IS NOT NULL AND archived_at IS NULL;

-- Append-only. What was read once is a prefix of every later read.
CREATE TABLE event (
    run_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    seq integer NOT NULL,
    type text NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);

-- Open work only: a row goes when its work is done. Claims and expiry touch nothing else.
-- seq 0 is the run's workflow task, any other the activity of that number.
CREATE TABLE task (
    run_id uuid NOT NULL,
    ready_at timestamptz NOT NULL,
    deadline timestamptz,
    leased_at timestamptz,
    lease_until timestamptz,
    heartbeat_at timestamptz,
    start_by timestamptz,
    close_by timestamptz,
    sticky_until timestamptz,
    fence bigint NOT NULL,
    start_to_close_s double precision,
    heartbeat_s double precision,
    seq integer NOT NULL,
    attempt integer NOT NULL,
    namespace text NOT NULL,
    task_queue text NOT NULL,
    worker text,
    sticky_worker text,
    PRIMARY KEY (run_id, seq)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.5);

CREATE INDEX task_workflow_ready ON task (namespace, task_queue, ready_at, run_id) WHERE worker IS NULL AND seq = 0;
CREATE INDEX task_activity_ready ON task (namespace, task_queue, ready_at, run_id) WHERE worker IS NULL AND seq > 0;
CREATE INDEX task_deadline ON task (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE activity (
    run_id uuid NOT NULL,
    scheduled_at timestamptz NOT NULL,
    last_heartbeat_at timestamptz,
    closed_at timestamptz,
    closed_fence bigint NOT NULL,
    seq integer NOT NULL,
    scheduled_seq integer NOT NULL,
    attempt integer NOT NULL,
    is_cancel_requested boolean NOT NULL,
    namespace text NOT NULL,
    activity_id text NOT NULL,
    name text NOT NULL,
    task_queue text NOT NULL,
    status text NOT NULL,
    options bytea NOT NULL,
    last_failure bytea,
    heartbeat_details bytea NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE timer (
    run_id uuid NOT NULL,
    fire_at timestamptz NOT NULL,
    seq integer NOT NULL,
    state smallint NOT NULL, -- 0 open, 1 fired, 2 cancelled
    PRIMARY KEY (run_id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX timer_due ON timer (fire_at) WHERE state = 0;

-- Idempotency of signals, cancels and terminates; a start's key stands in its run.
CREATE TABLE request (
    namespace text NOT NULL,
    request_id text NOT NULL,
    run_id uuid NOT NULL,
    hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (namespace, request_id)
);

CREATE INDEX request_age ON request USING brin (created_at);

-- One thin row per run and transaction: these events are owed to the change feed.
-- The relay reads what is visible and deletes what was acknowledged; it never goes by position.
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_seq integer NOT NULL,
    last_seq integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);

-- Who does what only one process should do; safety never rests on it.
CREATE TABLE leader (
    role text PRIMARY KEY,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    until timestamptz NOT NULL
);

-- What is wide or rare about a run. Each run that was written through the contract has one (its run.last_seq stays 0);
-- a run of the engine's only if there is something to keep. Times as they were given, hence not timestamptz.
CREATE TABLE record (
    run_id uuid PRIMARY KEY,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    completed_at double precision,
    archived_at double precision,
    dispatch_heartbeat double precision,
    ready_at timestamptz, -- dispatchable since, null when it is not
    event_count integer NOT NULL DEFAULT 0,
    namespace text NOT NULL,
    workflow_id text NOT NULL,
    task_queue text NOT NULL,
    parent_id text,
    claimed_by text,
    dispatch_worker text,
    archive_uri text,
    input text,
    result text,
    error text,
    memo text,
    search_attributes text,
    search jsonb, -- the same, to be searched
    closing bytea -- the event that an archived run of the engine's closed with
) WITH (fillfactor = 85);

CREATE INDEX record_ready ON record (namespace, task_queue, ready_at, workflow_id) WHERE ready_at IS NOT NULL AND dispatch_worker IS NULL;
CREATE INDEX record_leased ON record (dispatch_heartbeat) WHERE dispatch_worker IS NOT NULL;
CREATE INDEX record_held ON record (dispatch_worker) WHERE dispatch_worker IS NOT NULL;
CREATE INDEX record_child ON record (namespace, parent_id, created_at) WHERE parent_id IS NOT NULL;
CREATE INDEX record_archived ON record (namespace, archived_at DESC, run_id) WHERE archived_at IS NOT NULL AND archive_uri IS NOT NULL;
CREATE INDEX record_search ON record USING gin (search jsonb_path_ops) WHERE search IS NOT NULL;

CREATE TABLE record_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    timestamp double precision NOT NULL,
    seq integer NOT NULL,
    event_type text NOT NULL,
    payload text,
    UNIQUE (run_id, seq)
);

CREATE TABLE record_activity (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    scheduled_at double precision NOT NULL,
    started_at double precision,
    completed_at double precision,
    last_heartbeat double precision,
    initial_interval_secs double precision NOT NULL,
    backoff_coefficient double precision NOT NULL,
    max_interval_secs double precision,
    start_to_close_secs double precision NOT NULL,
    schedule_to_start_secs double precision,
    schedule_to_close_secs double precision,
    heartbeat_timeout_secs double precision,
    seq integer NOT NULL,
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    is_cancel_requested boolean NOT NULL DEFAULT false,
    namespace text NOT NULL,
    name text NOT NULL,
    task_queue text NOT NULL,
    status text NOT NULL,
    claimed_by text,
    input text,
    result text,
    error text,
    heartbeat_details text,
    UNIQUE (run_id, seq)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX record_activity_ready ON record_activity (namespace, task_queue, scheduled_at, id) WHERE status = 'PENDING';
CREATE INDEX record_activity_running ON record_activity (namespace, task_queue, id) WHERE status = 'RUNNING';
CREATE INDEX record_activity_held ON record_activity (claimed_by) WHERE status = 'RUNNING';
CREATE INDEX record_activity_deadline ON record_activity (
    least(started_at + start_to_close_secs, coalesce(last_heartbeat, started_at) + heartbeat_timeout_secs), id
) WHERE status = 'RUNNING';

CREATE TABLE record_timer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    fire_at double precision NOT NULL,
    seq integer NOT NULL,
    state smallint NOT NULL DEFAULT 0, -- 0 open, 1 fired, 2 cancelled
    UNIQUE (run_id, seq)
);

CREATE INDEX record_timer_due ON record_timer (fire_at, id) WHERE state = 0;

CREATE TABLE record_signal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    received_at double precision NOT NULL,
    consumed boolean NOT NULL DEFAULT false,
    name text NOT NULL,
    payload text,
    request_id text
);

CREATE UNIQUE INDEX record_signal_once ON record_signal (run_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX record_signal_run ON record_signal (run_id, consumed, name, id);

CREATE TABLE snapshot (
    run_id uuid NOT NULL,
    event_seq integer NOT NULL,
    created_at double precision NOT NULL,
    state_json text NOT NULL,
    PRIMARY KEY (run_id, event_seq)
);

-- `spec` holds what a cron expression does not say: intervals, calendars, bounds. `considered_at` is up to where slots were looked at.
CREATE TABLE schedule (
    namespace text NOT NULL,
    name text NOT NULL,
    created_at double precision NOT NULL,
    catchup_window_secs double precision NOT NULL,
    jitter_secs double precision NOT NULL,
    last_run_at double precision,
    next_run_at double precision,
    considered_at double precision,
    remaining_actions integer,
    paused boolean NOT NULL,
    is_pausing_on_failure boolean NOT NULL DEFAULT false,
    workflow_type text NOT NULL,
    cron_expr text NOT NULL,
    timezone text NOT NULL,
    task_queue text NOT NULL,
    overlap_policy text NOT NULL,
    input text,
    note text,
    last_workflow_id text,
    spec bytea,
    PRIMARY KEY (namespace, name)
) WITH (fillfactor = 80);

CREATE INDEX schedule_due ON schedule (next_run_at) WHERE NOT paused AND next_run_at IS NOT NULL;

-- What became of each slot: written with the run it starts, so that no slot starts two.
CREATE TABLE schedule_fire (
    namespace text NOT NULL,
    schedule text NOT NULL,
    slot double precision NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id uuid,
    status text NOT NULL CHECK (status IN ('started', 'skipped', 'queued')),
    reason text NOT NULL DEFAULT '',
    workflow_id text,
    overlap_policy text, -- the slot's own, of a trigger or a backfill; null for the schedule's
    PRIMARY KEY (namespace, schedule, slot)
);

CREATE INDEX schedule_fire_queued ON schedule_fire (namespace, schedule, slot) WHERE status = 'queued';

CREATE TABLE worker (
    id text PRIMARY KEY,
    registered_at double precision NOT NULL,
    last_heartbeat double precision NOT NULL,
    max_concurrent_workflows integer NOT NULL,
    max_concurrent_activities integer NOT NULL,
    active_tasks integer NOT NULL,
    namespace text NOT NULL,
    identity text NOT NULL,
    task_queue text NOT NULL,
    workflows text[],
    activities text[]
) WITH (fillfactor = 80);

CREATE INDEX worker_namespace ON worker (namespace, registered_at);
CREATE INDEX worker_silent ON worker (last_heartbeat);

-- Only the hash of a key is kept.
CREATE TABLE api_key (
    key_hash text PRIMARY KEY,
    prefix text NOT NULL UNIQUE,
    created_at double precision NOT NULL,
    expires_at double precision,
    last_used_at double precision,
    revoked_at double precision,
    label text,
    namespace text,
    scopes text[] NOT NULL DEFAULT '{}'
);

-- Changes that are not history, owed to the bus: in commit order per record, because they are written under its lock.
CREATE TABLE journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    namespace text NOT NULL,
    record text NOT NULL,
    entry bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);

-- How many runs closed: added to by each batch, summed up now and then, so that counting never reads closed runs.
CREATE TABLE tally (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    closed bigint NOT NULL,
    namespace text NOT NULL,
    status text NOT NULL
);

-- What a batch writes travels as arrays of these rows, one array per kind: a function that unnests one array of rows
-- costs a fraction of one that unnests an array per column. Fields as in the core's structs, times as epoch seconds.
-- A later version that writes another column brings a type of its own, so that both can run at once.

CREATE TYPE event_row AS (
    run_id uuid,
    recorded_at double precision,
    seq integer,
    type text,
    body bytea
);

CREATE TYPE task_row AS (
    run_id uuid,
    seq integer,
    namespace text,
    task_queue text,
    ready_at double precision,
    fence bigint,
    attempt integer,
    worker text,
    leased_at double precision,
    lease_until double precision,
    heartbeat_at double precision,
    start_to_close_s double precision,
    heartbeat_s double precision,
    start_by double precision,
    close_by double precision,
    deadline double precision,
    sticky_worker text,
    sticky_until double precision
);

CREATE TYPE activity_row AS (
    run_id uuid,
    seq integer,
    namespace text,
    activity_id text,
    name text,
    task_queue text,
    scheduled_seq integer,
    options bytea,
    scheduled_at double precision,
    status text,
    attempt integer,
    is_cancel_requested boolean,
    last_failure bytea,
    heartbeat_details bytea,
    last_heartbeat_at double precision,
    closed_at double precision,
    closed_fence bigint
);

CREATE TYPE timer_row AS (
    run_id uuid,
    seq integer,
    fire_at double precision,
    state smallint
);

CREATE TYPE request_row AS (
    namespace text,
    request_id text,
    hash bytea,
    run_id uuid
);

CREATE TYPE run_row AS (
    run_id uuid,
    namespace text,
    workflow_id text,
    workflow_type text,
    task_queue text,
    status text,
    last_seq integer,
    last_at double precision,
    last_message_seq integer,
    command_seq integer,
    fence bigint,
    done_seq integer,
    done_fence bigint,
    done_marker integer,
    done_head integer,
    open_activities integer,
    open_timers integer,
    is_cancel_requested boolean,
    sticky_worker text,
    sticky_seq integer,
    task_failure bytea,
    task_failure_cause text,
    request_id text,
    request_hash bytea,
    created_at double precision,
    closed_at double precision
);

CREATE TYPE outbox_row AS (
    run_id uuid,
    first_seq integer,
    last_seq integer
);

CREATE TYPE closing_row AS (
    run_id uuid,
    namespace text,
    status text
);

CREATE TYPE known_run AS (
    run_id uuid,
    version xid
);

CREATE TYPE known_task AS (
    run_id uuid,
    seq integer,
    fence bigint,
    worker text
);

CREATE TYPE work_key AS (
    run_id uuid,
    seq integer
);

-- Runs as filters see them: `document` has the fields by their names in the filter language, and the search attributes as `a`.
CREATE VIEW searched AS
SELECT
    r.run_id,
    r.namespace,
    r.workflow_id,
    r.workflow_type,
    r.task_queue,
    r.status,
    r.created_at,
    r.closed_at,
    r.last_seq,
    r.task_failure_cause,
    r.task_failure,
    r.sticky_worker,
    r.is_cancel_requested,
    c.search_attributes,
    c.memo,
    jsonb_build_object(
        'WorkflowId', r.workflow_id,
        'RunId', r.run_id,
        'WorkflowType', r.workflow_type,
        'TaskQueue', r.task_queue,
        'Status', r.status,
        'StartTime', extract(epoch FROM r.created_at)::float8,
        'CloseTime', extract(epoch FROM r.closed_at)::float8,
        'UpdateTime', extract(epoch FROM r.last_at)::float8,
        'ParentId', c.parent_id,
        'HistoryLength', r.last_seq,
        'TaskFailing', r.task_failure_cause IS NOT NULL,
        'a', c.search
    ) AS document
FROM run AS r
LEFT JOIN LATERAL (
    SELECT record.search_attributes, record.memo, record.search, record.parent_id
    FROM record
    WHERE record.run_id = r.run_id
    OFFSET 0
) AS c ON true;
