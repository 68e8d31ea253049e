-- The first of each replica's requests that wait for a session: whoever came
-- first is served first, whatever replica it waits in. A waiter that does not
-- look again loses its place within seconds.
CREATE TABLE IF NOT EXISTS automation_waiters (
    id            text PRIMARY KEY,
    owner_id      text NOT NULL,
    model_id      text NOT NULL,
    session_id    text NOT NULL,   -- the only one that will do, or empty
    omit_provider text NOT NULL,   -- the provider whose sessions will not do, or empty
    since         timestamptz NOT NULL,
    until         timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS automation_waiters_pool ON automation_waiters (owner_id, model_id);

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (7, 'session_queue', now()) ON CONFLICT DO NOTHING;
