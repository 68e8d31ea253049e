-- How the chat requests of the last five minutes fared, as each replica counted
-- them; see internal/replica.
ALTER TABLE automation_replicas ADD COLUMN IF NOT EXISTS figures jsonb NOT NULL DEFAULT '{}';

-- automation_sessions_created has the same columns as the one that goes. The new
-- one counts the users of the last week without reading the table.
CREATE INDEX IF NOT EXISTS automation_sessions_users ON automation_sessions (created_at, user_id);
DROP INDEX IF EXISTS automation_sessions_by_creation;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (13, 'figures', now()) ON CONFLICT DO NOTHING;
