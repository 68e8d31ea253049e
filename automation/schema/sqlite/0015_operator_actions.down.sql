CREATE INDEX IF NOT EXISTS automation_sessions_by_use ON automation_sessions (created_at, user_id, state);
DROP INDEX IF EXISTS automation_sessions_sums;
DROP TABLE IF EXISTS automation_user_failures;
-- Without the rows that the check of before refuses.
CREATE TABLE automation_events_copy AS SELECT * FROM feature_flag_events;
DROP TABLE feature_flag_events;
CREATE TABLE feature_flag_events (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    feature_name TEXT NOT NULL,
    version      INTEGER NOT NULL,
    action       TEXT NOT NULL CHECK (action IN ('insert', 'update', 'delete')),
    changed_at   TEXT NOT NULL,
    changed_by   TEXT NOT NULL,
    before       TEXT NOT NULL,
    after        TEXT NOT NULL
);
INSERT INTO feature_flag_events (id, feature_name, version, action, changed_at, changed_by, before, after)
SELECT id, feature_name, version, action, changed_at, changed_by, before, after FROM automation_events_copy WHERE action IN ('insert', 'update', 'delete');
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
DELETE FROM automation_schema_migrations WHERE version = 15;
