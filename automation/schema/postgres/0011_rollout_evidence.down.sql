-- The way back: the counts stay; which users they came from is forgotten.
ALTER TABLE automation_rollout_receivers DROP COLUMN IF EXISTS registered_at;
DROP TABLE IF EXISTS automation_rollout_minutes;
DROP TABLE IF EXISTS automation_rollout_failures;
ALTER TABLE automation_rollout_counts DROP COLUMN IF EXISTS shared_failures;
ALTER TABLE automation_rollout_counts DROP COLUMN IF EXISTS provider_failures;
DROP INDEX IF EXISTS automation_rollouts_watched;
ALTER TABLE automation_rollouts DROP COLUMN IF EXISTS watched_until;
DELETE FROM automation_schema_migrations WHERE version = 11;
