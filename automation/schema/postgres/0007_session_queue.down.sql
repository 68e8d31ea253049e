-- The way back: replicas serve their own waiting requests in their own order.
DROP TABLE IF EXISTS automation_waiters;
DELETE FROM automation_schema_migrations WHERE version = 7;
