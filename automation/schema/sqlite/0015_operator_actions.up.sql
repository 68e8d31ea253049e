-- What an operator did to a feature besides changing its flag stands in the
-- same audit, with the flag's version at the time: before is empty, after says
-- on what they acted. SQLite changes no CHECK, so the table is made again.
CREATE TABLE automation_events_copy AS SELECT * FROM feature_flag_events;
DROP TABLE feature_flag_events;
CREATE TABLE feature_flag_events (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    feature_name TEXT NOT NULL,
    version      INTEGER NOT NULL,
    action       TEXT NOT NULL CHECK (action IN ('insert', 'update', 'delete', 'end_session', 'cleanup')),
    changed_at   TEXT NOT NULL,
    changed_by   TEXT NOT NULL,
    before       TEXT NOT NULL,
    after        TEXT NOT NULL
);
INSERT INTO feature_flag_events (id, feature_name, version, action, changed_at, changed_by, before, after)
SELECT id, feature_name, version, action, changed_at, changed_by, before, after FROM automation_events_copy;
DROP TABLE automation_events_copy;
CREATE INDEX feature_flag_events_by_flag ON feature_flag_events (feature_name, id);
CREATE INDEX feature_flag_events_by_time ON feature_flag_events (changed_at);
CREATE INDEX feature_flag_events_renames ON feature_flag_events (feature_name, id) WHERE action = 'update' AND before ->> 'feature_name' IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS automation_append_only_update BEFORE UPDATE ON feature_flag_events
BEGIN
    SELECT RAISE(ABORT, 'feature_flag_events is append-only');
END;
CREATE TRIGGER IF NOT EXISTS automation_append_only_delete BEFORE DELETE ON feature_flag_events
WHEN OLD.changed_at >= strftime('%Y-%m-%d %H:%M:%f', 'now', '-90 days')
BEGIN
    SELECT RAISE(ABORT, 'feature_flag_events is append-only');
END;

-- Which errors a user got, one row for each cause and code: no text of theirs.
-- Replicas add to it at most twice a minute; see package internal/replica.
CREATE TABLE IF NOT EXISTS automation_user_failures (
    user_id   TEXT NOT NULL CHECK (user_id <> ''),
    cause     TEXT NOT NULL,      -- of package automation/outcome, as is code
    code      TEXT NOT NULL,
    began_at  TEXT NOT NULL,      -- the first one after a day without any
    failed_at TEXT NOT NULL,      -- the last one
    requests  INTEGER NOT NULL,   -- how many there were between
    PRIMARY KEY (user_id, cause, code)
);
CREATE INDEX IF NOT EXISTS automation_user_failures_by_time ON automation_user_failures (failed_at);

-- How sessions fared and who used them within a span is summed up without
-- reading the table.
CREATE INDEX IF NOT EXISTS automation_sessions_sums ON automation_sessions (created_at, user_id, state, purpose, reason, duration);
DROP INDEX IF EXISTS automation_sessions_by_use;

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (15, 'operator_actions', strftime('%Y-%m-%d %H:%M:%f', 'now'));
