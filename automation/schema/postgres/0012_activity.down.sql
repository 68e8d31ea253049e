DROP TABLE IF EXISTS automation_activity;
ALTER TABLE automation_replicas DROP COLUMN IF EXISTS reports;
DELETE FROM automation_schema_migrations WHERE version = 12;
