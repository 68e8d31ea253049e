-- How requests ended, of all replicas, for reports: counts and sums alone, of
-- nobody in particular. A replica adds to it with its report. It numbers its
-- reports, so that one which is repeated adds nothing.
ALTER TABLE automation_replicas ADD COLUMN IF NOT EXISTS reports bigint NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS automation_activity (
    period     timestamptz NOT NULL,   -- its beginning; it has ten minutes
    kind       text NOT NULL CHECK (kind IN ('chat', 'api')),
    cause      text NOT NULL,          -- of package automation/outcome
    evidence   text NOT NULL DEFAULT 'none' CHECK (evidence IN ('none', 'success', 'failure', 'shared', 'compared')),  -- what the cause says about the feature
    requests   bigint NOT NULL,
    slow       bigint NOT NULL,        -- successes over the deployment plan's latency
    db_slow    bigint NOT NULL,        -- over its time in the database
    latency_us bigint NOT NULL,        -- the sum, in microseconds
    db_us      bigint NOT NULL,        -- likewise
    PRIMARY KEY (period, kind, cause)
) WITH (fillfactor = 50);

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (12, 'activity', now()) ON CONFLICT DO NOTHING;
