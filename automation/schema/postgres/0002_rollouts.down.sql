-- The way back: the rollouts' tables go, with their data. Flags stay as they are.
DROP TABLE IF EXISTS automation_rollout_outbox;
DROP TABLE IF EXISTS automation_rollout_receivers;
DROP TABLE IF EXISTS automation_rollout_counts;
DROP TABLE IF EXISTS automation_rollout_events;
DROP TABLE IF EXISTS automation_rollouts;
DELETE FROM automation_schema_migrations WHERE version = 2;
