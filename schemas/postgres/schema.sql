-- The schema as it stands after all migrations, for reading. Nothing applies this file: `holdfast migrate` applies
-- the numbered ones beside it, and a test compares what both leave behind. Runs with search_path holdfast.

CREATE TABLE namespace (
    name text PRIMARY KEY,
    feed text NOT NULL DEFAULT 'full' CHECK (feed IN ('full', 'lifecycle', 'off')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
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
    task_failure bytea
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);

-- At most one open run per workflow id: what makes two racing starts one run.
CREATE UNIQUE INDEX run_open ON run (namespace, workflow_id) WHERE closed_at IS NULL;

-- The newest run of an id; run ids rise with time.
CREATE INDEX run_chain ON run (namespace, workflow_id, run_id);

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
