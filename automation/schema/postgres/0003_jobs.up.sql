-- Work that one replica at a time does. Whoever works holds the row's lease
-- and extends it with each step; a lease that nobody extends ends by itself.
CREATE TABLE IF NOT EXISTS automation_jobs (
    name        text PRIMARY KEY,
    lease_token text,
    lease_until timestamptz,
    started_at  timestamptz,   -- the last time it began
    finished_at timestamptz,   -- the last time it came to its end
    CHECK ((lease_token IS NULL) = (lease_until IS NULL))
);
INSERT INTO automation_jobs (name) VALUES ('cleanup') ON CONFLICT DO NOTHING;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (3, 'jobs', now()) ON CONFLICT DO NOTHING;
