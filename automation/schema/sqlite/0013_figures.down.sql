CREATE INDEX IF NOT EXISTS automation_sessions_by_creation ON automation_sessions (created_at, id);
DROP INDEX IF EXISTS automation_sessions_users;
ALTER TABLE automation_replicas DROP COLUMN figures;
DELETE FROM automation_schema_migrations WHERE version = 13;
