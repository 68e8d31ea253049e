DROP TABLE IF EXISTS automation_activity;
ALTER TABLE automation_replicas DROP COLUMN reports;
DELETE FROM automation_schema_migrations WHERE version = 12;
