-- The way back: the operators' lists read the table.
DROP INDEX IF EXISTS automation_sessions_by_state;
DROP INDEX IF EXISTS automation_sessions_by_creation;
DELETE FROM automation_schema_migrations WHERE version = 10;
