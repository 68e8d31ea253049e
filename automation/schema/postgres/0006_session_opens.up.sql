-- What makes an open recognisable on the chain, what it was for, and until when
-- its call keeps the wallet to itself.
ALTER TABLE automation_sessions ADD COLUMN IF NOT EXISTS fingerprint integer;                     -- seconds asked of the chain; no other open asks for as many
ALTER TABLE automation_sessions ADD COLUMN IF NOT EXISTS purpose text NOT NULL DEFAULT 'request'; -- why it was opened
ALTER TABLE automation_sessions ADD COLUMN IF NOT EXISTS lane_until timestamptz;                  -- when its call no longer keeps others waiting
CREATE UNIQUE INDEX IF NOT EXISTS automation_sessions_fingerprint ON automation_sessions (fingerprint) WHERE state IN ('opening', 'unknown', 'lost');
CREATE INDEX IF NOT EXISTS automation_sessions_replacements ON automation_sessions (created_at) WHERE purpose = 'replacement';
CREATE INDEX IF NOT EXISTS automation_sessions_created ON automation_sessions (created_at, id);

-- How many of the wallet's open sessions no row explains, and when it was counted.
ALTER TABLE automation_wallet ADD COLUMN IF NOT EXISTS audited_at timestamptz NOT NULL DEFAULT 'epoch';
ALTER TABLE automation_wallet ADD COLUMN IF NOT EXISTS unexplained integer NOT NULL DEFAULT 0;

-- Sessions that a client has named and that are none of ours: they are never
-- adopted, whatever they look like.
CREATE TABLE IF NOT EXISTS automation_foreign_sessions (
    session_id text PRIMARY KEY,
    seen_at    timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS automation_foreign_sessions_seen ON automation_foreign_sessions (seen_at);

-- The last failure of a provider for a user. One that fails for several is
-- avoided for a while.
CREATE TABLE IF NOT EXISTS automation_provider_failures (
    provider  text NOT NULL,
    user_id   text NOT NULL,
    failed_at timestamptz NOT NULL,
    PRIMARY KEY (provider, user_id)
);
CREATE INDEX IF NOT EXISTS automation_provider_failures_recent ON automation_provider_failures (failed_at);
CREATE INDEX IF NOT EXISTS automation_provider_failures_user ON automation_provider_failures (user_id);

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (6, 'session_opens', now()) ON CONFLICT DO NOTHING;
