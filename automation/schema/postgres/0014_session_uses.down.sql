CREATE INDEX IF NOT EXISTS automation_sessions_users ON automation_sessions (created_at, user_id);
DROP INDEX IF EXISTS automation_sessions_by_use;
DELETE FROM automation_schema_migrations WHERE version = 14;
