-- What an operator did to a feature besides changing its flag stands in the
-- same audit, with the flag's version at the time: before is empty, after says
-- on what they acted.
ALTER TABLE feature_flag_events DROP CONSTRAINT IF EXISTS feature_flag_events_action_check;
ALTER TABLE feature_flag_events ADD CONSTRAINT feature_flag_events_action_check
    CHECK (action IN ('insert', 'update', 'delete', 'end_session', 'cleanup'));

-- Which errors a user got, one row for each cause and code: no text of theirs.
-- Replicas add to it at most twice a minute; see package internal/replica.
CREATE TABLE IF NOT EXISTS automation_user_failures (
    user_id   text NOT NULL CHECK (user_id <> ''),
    cause     text NOT NULL,           -- of package automation/outcome, as is code
    code      text NOT NULL,
    began_at  timestamptz NOT NULL,    -- the first one after a day without any
    failed_at timestamptz NOT NULL,    -- the last one
    requests  bigint NOT NULL,         -- how many there were between
    PRIMARY KEY (user_id, cause, code)
);
CREATE INDEX IF NOT EXISTS automation_user_failures_by_time ON automation_user_failures (failed_at);

-- How sessions fared and who used them within a span is summed up without
-- reading the table, which takes several times as long.
CREATE INDEX IF NOT EXISTS automation_sessions_sums ON automation_sessions (created_at) INCLUDE (user_id, state, purpose, reason, duration);
DROP INDEX IF EXISTS automation_sessions_by_use;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (15, 'operator_actions', now()) ON CONFLICT DO NOTHING;
