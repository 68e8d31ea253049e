-- The way back: sessions stay; what their opens were recognised by is forgotten.
DROP TABLE IF EXISTS automation_provider_failures;
DROP TABLE IF EXISTS automation_foreign_sessions;
ALTER TABLE automation_wallet DROP COLUMN IF EXISTS unexplained;
ALTER TABLE automation_wallet DROP COLUMN IF EXISTS audited_at;
DROP INDEX IF EXISTS automation_sessions_created;
DROP INDEX IF EXISTS automation_sessions_replacements;
DROP INDEX IF EXISTS automation_sessions_fingerprint;
ALTER TABLE automation_sessions DROP COLUMN IF EXISTS lane_until;
ALTER TABLE automation_sessions DROP COLUMN IF EXISTS purpose;
ALTER TABLE automation_sessions DROP COLUMN IF EXISTS fingerprint;
DELETE FROM automation_schema_migrations WHERE version = 6;
