-- expand
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
