-- The processes of the fleet, as they report themselves. The same names and
-- columns as on PostgreSQL.
CREATE TABLE IF NOT EXISTS automation_replicas (
    id              TEXT NOT NULL PRIMARY KEY,
    host            TEXT NOT NULL,
    version         TEXT NOT NULL,
    started_at      TEXT NOT NULL,
    seen_at         TEXT NOT NULL,
    feature_enabled BOOLEAN NOT NULL CHECK (feature_enabled IN (0, 1)),
    flag_version    INTEGER NOT NULL,
    flag_age        REAL NOT NULL,
    problems        TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(problems)),
    requests        INTEGER NOT NULL,
    failures        INTEGER NOT NULL,
    node_failures   INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS automation_replicas_by_time ON automation_replicas (seen_at);

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (8, 'replicas', strftime('%Y-%m-%d %H:%M:%f', 'now'));
