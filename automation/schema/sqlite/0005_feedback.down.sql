-- The way back: what users said goes with its table.
DROP TABLE IF EXISTS automation_feedback;
DELETE FROM automation_schema_migrations WHERE version = 5;
