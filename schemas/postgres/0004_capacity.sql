-- expand
-- Who holds what of the store contract's: claims count it against the slots of a registered worker.

CREATE INDEX record_held ON record (dispatch_worker) WHERE dispatch_worker IS NOT NULL;
CREATE INDEX record_activity_held ON record_activity (claimed_by) WHERE status = 'RUNNING';
