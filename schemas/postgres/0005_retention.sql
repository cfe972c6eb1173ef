-- expand
-- How long a namespace keeps the histories of closed runs, and the event that an archived run closed with: results
-- are answered without the archive. Closed runs are found by namespace now, because each has a term of its own.

ALTER TABLE namespace ADD COLUMN retention_s double precision CHECK (retention_s >= 0);

ALTER TABLE record ADD COLUMN closing bytea;

CREATE INDEX run_retained ON run (namespace, closed_at) WHERE closed_at IS NOT NULL AND archived_at IS NULL;
DROP INDEX run_archivable;

CREATE INDEX record_archived ON record (namespace, archived_at DESC, run_id)
WHERE archived_at IS NOT NULL AND archive_uri IS NOT NULL;
