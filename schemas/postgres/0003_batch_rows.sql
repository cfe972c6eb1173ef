-- expand
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
