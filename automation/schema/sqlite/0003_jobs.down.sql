-- The way back: when the jobs ran last is forgotten.
DROP TABLE IF EXISTS automation_jobs;
DELETE FROM automation_schema_migrations WHERE version = 3;
