-- Work that one process at a time does. Whoever works holds the row's lease
-- and extends it with each step; a lease that nobody extends ends by itself.
CREATE TABLE IF NOT EXISTS automation_jobs (
    name        TEXT NOT NULL PRIMARY KEY,
    lease_token TEXT,
    lease_until TEXT,
    started_at  TEXT,
    finished_at TEXT,
    CHECK ((lease_token IS NULL) = (lease_until IS NULL))
);
INSERT OR IGNORE INTO automation_jobs (name) VALUES ('cleanup');

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (3, 'jobs', strftime('%Y-%m-%d %H:%M:%f', 'now'));
