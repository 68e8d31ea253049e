-- The automation feature's tables for one machine. The same names and columns
-- as on PostgreSQL; times are texts in UTC with milliseconds, which sort.

-- Each migration records itself, whichever tool applies it, and its way back
-- removes the record.
CREATE TABLE IF NOT EXISTS automation_schema_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    applied_at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS feature_flags (
    feature_name       TEXT NOT NULL PRIMARY KEY CHECK (feature_name <> ''),
    enabled            BOOLEAN NOT NULL DEFAULT FALSE CHECK (enabled IN (0, 1)),
    enabled_user_ids   TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(enabled_user_ids) AND json_type(enabled_user_ids) = 'array'),
    disabled_user_ids  TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(disabled_user_ids) AND json_type(disabled_user_ids) = 'array'),
    rollout_percentage REAL NOT NULL DEFAULT 0 CHECK (typeof(rollout_percentage) = 'real' AND rollout_percentage BETWEEN 0 AND 100),
    seed               TEXT NOT NULL DEFAULT '',
    notice             TEXT NOT NULL DEFAULT '',
    version            INTEGER NOT NULL DEFAULT 1,
    updated_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    updated_by         TEXT NOT NULL DEFAULT ''
);

CREATE TABLE IF NOT EXISTS feature_flag_events (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    feature_name TEXT NOT NULL,
    version      INTEGER NOT NULL,
    action       TEXT NOT NULL CHECK (action IN ('insert', 'update', 'delete')),
    changed_at   TEXT NOT NULL,
    changed_by   TEXT NOT NULL,
    before       TEXT NOT NULL,
    after        TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS feature_flag_events_by_flag ON feature_flag_events (feature_name, id);
CREATE INDEX IF NOT EXISTS feature_flag_events_by_time ON feature_flag_events (changed_at);

-- What PostgreSQL keeps in a setting of the transaction: who is acting
-- ('actor'). Set and removed within one transaction, so nobody else ever sees
-- a row.
CREATE TABLE IF NOT EXISTS automation_context (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);

CREATE TRIGGER IF NOT EXISTS automation_flag_ids_insert BEFORE INSERT ON feature_flags
WHEN EXISTS (SELECT 1 FROM json_each(iif(json_valid(NEW.enabled_user_ids), NEW.enabled_user_ids, '[]')) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''))
  OR EXISTS (SELECT 1 FROM json_each(iif(json_valid(NEW.disabled_user_ids), NEW.disabled_user_ids, '[]')) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''))
BEGIN
    SELECT RAISE(ABORT, 'a list of user ids holds whole numbers and texts only');
END;
CREATE TRIGGER IF NOT EXISTS automation_flag_ids_update BEFORE UPDATE OF enabled_user_ids, disabled_user_ids ON feature_flags
WHEN EXISTS (SELECT 1 FROM json_each(iif(json_valid(NEW.enabled_user_ids), NEW.enabled_user_ids, '[]')) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''))
  OR EXISTS (SELECT 1 FROM json_each(iif(json_valid(NEW.disabled_user_ids), NEW.disabled_user_ids, '[]')) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''))
BEGIN
    SELECT RAISE(ABORT, 'a list of user ids holds whole numbers and texts only');
END;

CREATE TRIGGER IF NOT EXISTS automation_flag_inserted AFTER INSERT ON feature_flags
BEGIN
    UPDATE feature_flags SET version = 1, updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now'),
        updated_by = coalesce((SELECT value FROM automation_context WHERE key = 'actor'), nullif(NEW.updated_by, ''), 'sql')
    WHERE feature_name = NEW.feature_name;
    INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
    SELECT feature_name, version, 'insert', updated_at, updated_by, '{}',
        json_object('feature_name', feature_name, 'enabled', json(iif(enabled, 'true', 'false')), 'enabled_user_ids', json(enabled_user_ids),
            'disabled_user_ids', json(disabled_user_ids), 'rollout_percentage', rollout_percentage, 'seed', seed, 'notice', notice)
    FROM feature_flags WHERE feature_name = NEW.feature_name;
END;

CREATE TRIGGER IF NOT EXISTS automation_flag_updated
AFTER UPDATE OF feature_name, enabled, enabled_user_ids, disabled_user_ids, rollout_percentage, seed, notice ON feature_flags
WHEN OLD.feature_name IS NOT NEW.feature_name OR OLD.enabled IS NOT NEW.enabled OR OLD.enabled_user_ids IS NOT NEW.enabled_user_ids
  OR OLD.disabled_user_ids IS NOT NEW.disabled_user_ids OR OLD.rollout_percentage IS NOT NEW.rollout_percentage
  OR OLD.seed IS NOT NEW.seed OR OLD.notice IS NOT NEW.notice
BEGIN
    UPDATE feature_flags SET version = OLD.version + 1, updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now'),
        updated_by = coalesce((SELECT value FROM automation_context WHERE key = 'actor'), nullif(nullif(NEW.updated_by, ''), OLD.updated_by), 'sql')
    WHERE feature_name = NEW.feature_name;
    INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
    SELECT f.feature_name, f.version, 'update', f.updated_at, f.updated_by, d.before, d.after
    FROM feature_flags f, (
        SELECT json_group_object(key, json(was)) AS before, json_group_object(key, json(is_now)) AS after FROM (
            SELECT 'feature_name' AS key, json_quote(OLD.feature_name) AS was, json_quote(NEW.feature_name) AS is_now
            UNION ALL SELECT 'enabled', iif(OLD.enabled, 'true', 'false'), iif(NEW.enabled, 'true', 'false')
            UNION ALL SELECT 'enabled_user_ids', OLD.enabled_user_ids, NEW.enabled_user_ids
            UNION ALL SELECT 'disabled_user_ids', OLD.disabled_user_ids, NEW.disabled_user_ids
            UNION ALL SELECT 'rollout_percentage', json_quote(OLD.rollout_percentage), json_quote(NEW.rollout_percentage)
            UNION ALL SELECT 'seed', json_quote(OLD.seed), json_quote(NEW.seed)
            UNION ALL SELECT 'notice', json_quote(OLD.notice), json_quote(NEW.notice))
        WHERE was IS NOT is_now) d
    WHERE f.feature_name = NEW.feature_name;
END;

CREATE TRIGGER IF NOT EXISTS automation_flag_deleted AFTER DELETE ON feature_flags
BEGIN
    INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
    VALUES (OLD.feature_name, OLD.version, 'delete', strftime('%Y-%m-%d %H:%M:%f', 'now'),
        coalesce((SELECT value FROM automation_context WHERE key = 'actor'), 'sql'),
        json_object('feature_name', OLD.feature_name, 'enabled', json(iif(OLD.enabled, 'true', 'false')), 'enabled_user_ids', json(OLD.enabled_user_ids),
            'disabled_user_ids', json(OLD.disabled_user_ids), 'rollout_percentage', OLD.rollout_percentage, 'seed', OLD.seed, 'notice', OLD.notice), '{}');
END;

CREATE TRIGGER IF NOT EXISTS automation_append_only_update BEFORE UPDATE ON feature_flag_events
BEGIN
    SELECT RAISE(ABORT, 'feature_flag_events is append-only');
END;
CREATE TRIGGER IF NOT EXISTS automation_append_only_delete BEFORE DELETE ON feature_flag_events
WHEN OLD.changed_at >= strftime('%Y-%m-%d %H:%M:%f', 'now', '-90 days')
BEGIN
    SELECT RAISE(ABORT, 'feature_flag_events is append-only');
END;

INSERT OR IGNORE INTO feature_flags (feature_name, enabled, updated_by) VALUES ('automation', TRUE, 'migration');

CREATE TABLE IF NOT EXISTS user_automation_settings (
    user_id          TEXT NOT NULL PRIMARY KEY CHECK (user_id <> ''),
    is_enabled       BOOLEAN NOT NULL DEFAULT FALSE CHECK (is_enabled IN (0, 1)),
    session_duration INTEGER NOT NULL DEFAULT 3600 CHECK (typeof(session_duration) = 'integer' AND session_duration > 0),
    version          INTEGER NOT NULL DEFAULT 1,
    created_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    updated_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    deleted_at       TEXT
);
CREATE INDEX IF NOT EXISTS user_automation_settings_by_change ON user_automation_settings (updated_at);
CREATE INDEX IF NOT EXISTS user_automation_settings_adopters ON user_automation_settings (user_id) WHERE is_enabled AND deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS user_automation_settings_deleted ON user_automation_settings (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS automation_sessions (
    id            TEXT NOT NULL PRIMARY KEY,
    session_id    TEXT UNIQUE,
    model_id      TEXT NOT NULL,
    owner_id      TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    charged_at    TEXT,
    duration      INTEGER NOT NULL CHECK (duration > 0),
    state         TEXT NOT NULL CHECK (state IN ('opening', 'unknown', 'open', 'ending', 'closed', 'failed', 'lost')),
    reason        TEXT NOT NULL DEFAULT '',
    last_error    TEXT NOT NULL DEFAULT '',
    provider      TEXT NOT NULL DEFAULT '',
    omit_provider TEXT NOT NULL DEFAULT '',
    replaces      TEXT UNIQUE,
    lane          TEXT NOT NULL DEFAULT '' CHECK (lane IN ('', 'shared', 'alone')),
    lease_token   TEXT,
    lease_holder  TEXT,
    lease_until   TEXT,
    created_at    TEXT NOT NULL,
    called_at     TEXT,
    unknown_at    TEXT,
    opened_at     TEXT,
    ends_at       TEXT,
    last_used_at  TEXT,
    closed_at     TEXT,
    next_at       TEXT NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    CHECK (state NOT IN ('open', 'ending', 'closed') OR session_id IS NOT NULL AND ends_at IS NOT NULL),
    CHECK ((lease_token IS NULL) = (lease_until IS NULL) AND (lease_token IS NULL) = (lease_holder IS NULL))
);
CREATE INDEX IF NOT EXISTS automation_sessions_claim ON automation_sessions (owner_id, model_id, ends_at) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS automation_sessions_budget ON automation_sessions (user_id, charged_at) WHERE user_id <> '';
CREATE INDEX IF NOT EXISTS automation_sessions_pool ON automation_sessions (owner_id, model_id) WHERE state IN ('opening', 'unknown', 'open', 'ending');
CREATE INDEX IF NOT EXISTS automation_sessions_held ON automation_sessions (user_id) WHERE state IN ('opening', 'unknown', 'open', 'ending');
CREATE INDEX IF NOT EXISTS automation_sessions_due ON automation_sessions (next_at) WHERE state IN ('opening', 'unknown', 'open', 'ending', 'lost');
CREATE INDEX IF NOT EXISTS automation_sessions_lanes ON automation_sessions (id) WHERE lane <> '';
CREATE INDEX IF NOT EXISTS automation_sessions_ended ON automation_sessions (closed_at) WHERE state IN ('closed', 'failed');

CREATE TABLE IF NOT EXISTS automation_wallet (
    name        TEXT NOT NULL PRIMARY KEY,
    alone_until TEXT NOT NULL
);
INSERT OR IGNORE INTO automation_wallet (name, alone_until) VALUES ('wallet', '1970-01-01 00:00:00.000');

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (1, 'automation', strftime('%Y-%m-%d %H:%M:%f', 'now'));
