-- How requests ended, of all replicas, for reports. The same names and columns
-- as on PostgreSQL.
ALTER TABLE automation_replicas ADD COLUMN reports INTEGER NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS automation_activity (
    period     TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('chat', 'api')),
    cause      TEXT NOT NULL,
    evidence   TEXT NOT NULL DEFAULT 'none' CHECK (evidence IN ('none', 'success', 'failure', 'shared', 'compared')),
    requests   INTEGER NOT NULL,
    slow       INTEGER NOT NULL,
    db_slow    INTEGER NOT NULL,
    latency_us INTEGER NOT NULL,
    db_us      INTEGER NOT NULL,
    PRIMARY KEY (period, kind, cause)
);

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (12, 'activity', strftime('%Y-%m-%d %H:%M:%f', 'now'));
