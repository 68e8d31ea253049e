-- What makes an open recognisable on the chain, what it was for, and until when
-- its call keeps the wallet to itself.
ALTER TABLE automation_sessions ADD COLUMN fingerprint INTEGER;
ALTER TABLE automation_sessions ADD COLUMN purpose TEXT NOT NULL DEFAULT 'request';
ALTER TABLE automation_sessions ADD COLUMN lane_until TEXT;
CREATE UNIQUE INDEX IF NOT EXISTS automation_sessions_fingerprint ON automation_sessions (fingerprint) WHERE state IN ('opening', 'unknown', 'lost');
CREATE INDEX IF NOT EXISTS automation_sessions_replacements ON automation_sessions (created_at) WHERE purpose = 'replacement';
CREATE INDEX IF NOT EXISTS automation_sessions_created ON automation_sessions (created_at, id);

ALTER TABLE automation_wallet ADD COLUMN audited_at TEXT NOT NULL DEFAULT '1970-01-01 00:00:00.000';
ALTER TABLE automation_wallet ADD COLUMN unexplained INTEGER NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS automation_foreign_sessions (
    session_id TEXT NOT NULL PRIMARY KEY,
    seen_at    TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS automation_foreign_sessions_seen ON automation_foreign_sessions (seen_at);

CREATE TABLE IF NOT EXISTS automation_provider_failures (
    provider  TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    failed_at TEXT NOT NULL,
    PRIMARY KEY (provider, user_id)
);
CREATE INDEX IF NOT EXISTS automation_provider_failures_recent ON automation_provider_failures (failed_at);
CREATE INDEX IF NOT EXISTS automation_provider_failures_user ON automation_provider_failures (user_id);

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (6, 'session_opens', strftime('%Y-%m-%d %H:%M:%f', 'now'));
