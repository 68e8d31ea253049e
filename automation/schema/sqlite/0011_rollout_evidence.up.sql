-- What rollouts judge by: causes, different users, and the course of time.
ALTER TABLE automation_rollouts ADD COLUMN watched_until TEXT;                   -- a completed rollout is watched until then
UPDATE automation_rollouts SET plan = json_remove(plan, '$.policy') WHERE json_extract(plan, '$.policy') IS NOT NULL;
CREATE INDEX IF NOT EXISTS automation_rollouts_watched ON automation_rollouts (name) WHERE state IN ('running', 'paused', 'completed');

ALTER TABLE automation_rollout_counts ADD COLUMN provider_failures INTEGER NOT NULL DEFAULT 0;  -- of the failures
ALTER TABLE automation_rollout_counts ADD COLUMN shared_failures INTEGER NOT NULL DEFAULT 0;    -- of the node or the database, in no other figure

-- In which minutes a user's requests failed, or were slow: once a minute over
-- all replicas is all that counts. The user is a hash that differs from one
-- stage run to the next; rows are removed after two hours.
CREATE TABLE IF NOT EXISTS automation_rollout_failures (
    rollout   TEXT NOT NULL,
    stage_run INTEGER NOT NULL,              -- automation_rollouts.bake
    kind      TEXT NOT NULL CHECK (kind IN ('failure', 'provider', 'slow')),
    user_hash TEXT NOT NULL,
    minute    TEXT NOT NULL,
    PRIMARY KEY (rollout, stage_run, kind, user_hash, minute)
);
CREATE INDEX IF NOT EXISTS automation_rollout_failures_by_minute ON automation_rollout_failures (minute);

-- The evidence of a stage run as it stood in each minute, for charts.
CREATE TABLE IF NOT EXISTS automation_rollout_minutes (
    rollout       TEXT NOT NULL,
    minute        TEXT NOT NULL,
    stage_run     INTEGER NOT NULL,
    evidence      TEXT NOT NULL CHECK (json_valid(evidence)),
    failing_users INTEGER NOT NULL,          -- of the minute before
    PRIMARY KEY (rollout, minute)
);
CREATE INDEX IF NOT EXISTS automation_rollout_minutes_by_time ON automation_rollout_minutes (minute);

-- A receiver gets what happens after it was registered, and nothing older.
ALTER TABLE automation_rollout_receivers ADD COLUMN registered_at TEXT;

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (11, 'rollout_evidence', strftime('%Y-%m-%d %H:%M:%f', 'now'));
