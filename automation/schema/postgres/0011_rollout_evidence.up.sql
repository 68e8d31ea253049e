-- What rollouts judge by: causes, different users, and the course of time.
ALTER TABLE automation_rollouts ADD COLUMN IF NOT EXISTS watched_until timestamptz;  -- a completed rollout is watched until then
UPDATE automation_rollouts SET plan = plan - 'policy' WHERE plan ? 'policy';         -- there is one policy
CREATE INDEX IF NOT EXISTS automation_rollouts_watched ON automation_rollouts (name) WHERE state IN ('running', 'paused', 'completed');

ALTER TABLE automation_rollout_counts ADD COLUMN IF NOT EXISTS provider_failures bigint NOT NULL DEFAULT 0;  -- of the failures
ALTER TABLE automation_rollout_counts ADD COLUMN IF NOT EXISTS shared_failures bigint NOT NULL DEFAULT 0;    -- of the node or the database, in no other figure

-- In which minutes a user's requests failed, or were slow: once a minute over
-- all replicas is all that counts. The user is a hash that differs from one
-- stage run to the next; rows are removed after two hours.
CREATE TABLE IF NOT EXISTS automation_rollout_failures (
    rollout   text NOT NULL,
    stage_run bigint NOT NULL,               -- automation_rollouts.bake
    kind      text NOT NULL CHECK (kind IN ('failure', 'provider', 'slow')),
    user_hash text NOT NULL,
    minute    timestamptz NOT NULL,
    PRIMARY KEY (rollout, stage_run, kind, user_hash, minute)
);
CREATE INDEX IF NOT EXISTS automation_rollout_failures_by_minute ON automation_rollout_failures (minute);

-- The evidence of a stage run as it stood in each minute, for charts.
CREATE TABLE IF NOT EXISTS automation_rollout_minutes (
    rollout       text NOT NULL,
    minute        timestamptz NOT NULL,
    stage_run     bigint NOT NULL,
    evidence      jsonb NOT NULL,            -- both arms, since the stage run began
    failing_users bigint NOT NULL,           -- of the minute before
    PRIMARY KEY (rollout, minute)
);
CREATE INDEX IF NOT EXISTS automation_rollout_minutes_by_time ON automation_rollout_minutes (minute);

-- A receiver gets what happens after it was registered, and nothing older.
ALTER TABLE automation_rollout_receivers ADD COLUMN IF NOT EXISTS registered_at timestamptz;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (11, 'rollout_evidence', now()) ON CONFLICT DO NOTHING;
