-- The first of each replica's requests that wait for a session, in the order in
-- which they came.
CREATE TABLE IF NOT EXISTS automation_waiters (
    id            TEXT NOT NULL PRIMARY KEY,
    owner_id      TEXT NOT NULL,
    model_id      TEXT NOT NULL,
    session_id    TEXT NOT NULL,
    omit_provider TEXT NOT NULL,
    since         TEXT NOT NULL,
    until         TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS automation_waiters_pool ON automation_waiters (owner_id, model_id);

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (7, 'session_queue', strftime('%Y-%m-%d %H:%M:%f', 'now'));
