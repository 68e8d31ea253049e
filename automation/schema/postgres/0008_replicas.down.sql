-- The way back: who runs is forgotten.
DROP TABLE IF EXISTS automation_replicas;
DELETE FROM automation_schema_migrations WHERE version = 8;
