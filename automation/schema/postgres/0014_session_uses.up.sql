-- Who used the feature within a span is counted without reading the table; a
-- session that failed is no use.
CREATE INDEX IF NOT EXISTS automation_sessions_by_use ON automation_sessions (created_at, user_id, state);
DROP INDEX IF EXISTS automation_sessions_users;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (14, 'session_uses', now()) ON CONFLICT DO NOTHING;
