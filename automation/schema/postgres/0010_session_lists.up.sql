-- For the operators' lists of sessions, newest first, of all states or of one.
CREATE INDEX IF NOT EXISTS automation_sessions_by_creation ON automation_sessions (created_at, id);
CREATE INDEX IF NOT EXISTS automation_sessions_by_state ON automation_sessions (state, created_at, id);
INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (10, 'session_lists', now()) ON CONFLICT DO NOTHING;
