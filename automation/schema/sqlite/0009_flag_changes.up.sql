-- Changes of flags: lists end at 10,000 ids, refusals say what to type, the
-- audit keeps who acted, and a notice goes with the outage that it was about.
-- A longer list that is there already stays until it is changed.

DROP TRIGGER IF EXISTS automation_flag_ids_insert;
DROP TRIGGER IF EXISTS automation_flag_ids_update;
CREATE TRIGGER automation_flag_ids_insert BEFORE INSERT ON feature_flags
BEGIN
    SELECT RAISE(ABORT, 'a list of user ids must be a JSON list; type it in single quotes: SET enabled_user_ids = ''[7, "a1"]''')
    WHERE NOT iif(json_valid(NEW.enabled_user_ids), json_type(NEW.enabled_user_ids) = 'array', 0) OR NOT iif(json_valid(NEW.disabled_user_ids), json_type(NEW.disabled_user_ids) = 'array', 0);
    SELECT RAISE(ABORT, 'a list of user ids holds at most 10000; for more users type a share: SET rollout_percentage = 10')
    WHERE json_array_length(NEW.enabled_user_ids) > 10000 OR json_array_length(NEW.disabled_user_ids) > 10000;
    SELECT RAISE(ABORT, 'a list of user ids holds whole numbers and texts that are not empty; type texts in double quotes: SET enabled_user_ids = ''[7, "a1"]''')
    WHERE EXISTS (SELECT 1 FROM json_each(NEW.enabled_user_ids) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''))
       OR EXISTS (SELECT 1 FROM json_each(NEW.disabled_user_ids) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''));
END;
CREATE TRIGGER automation_flag_ids_update BEFORE UPDATE OF enabled_user_ids, disabled_user_ids ON feature_flags
WHEN OLD.enabled_user_ids IS NOT NEW.enabled_user_ids OR OLD.disabled_user_ids IS NOT NEW.disabled_user_ids
BEGIN
    SELECT RAISE(ABORT, 'a list of user ids must be a JSON list; type it in single quotes: SET enabled_user_ids = ''[7, "a1"]''')
    WHERE NOT iif(json_valid(NEW.enabled_user_ids), json_type(NEW.enabled_user_ids) = 'array', 0) OR NOT iif(json_valid(NEW.disabled_user_ids), json_type(NEW.disabled_user_ids) = 'array', 0);
    SELECT RAISE(ABORT, 'a list of user ids holds at most 10000; for more users type a share: SET rollout_percentage = 10')
    WHERE OLD.enabled_user_ids IS NOT NEW.enabled_user_ids AND json_array_length(NEW.enabled_user_ids) > 10000
       OR OLD.disabled_user_ids IS NOT NEW.disabled_user_ids AND json_array_length(NEW.disabled_user_ids) > 10000;
    SELECT RAISE(ABORT, 'a list of user ids holds whole numbers and texts that are not empty; type texts in double quotes: SET enabled_user_ids = ''[7, "a1"]''')
    WHERE EXISTS (SELECT 1 FROM json_each(NEW.enabled_user_ids) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''))
       OR EXISTS (SELECT 1 FROM json_each(NEW.disabled_user_ids) WHERE NOT (type = 'integer' OR type = 'text' AND value <> ''));
END;

-- An updated_by that the statement gives counts even if it is the last one's.
DROP TRIGGER IF EXISTS automation_flag_actor;
CREATE TRIGGER automation_flag_actor BEFORE UPDATE OF updated_by ON feature_flags
WHEN NEW.updated_by <> '' AND (OLD.feature_name IS NOT NEW.feature_name OR OLD.enabled IS NOT NEW.enabled OR OLD.enabled_user_ids IS NOT NEW.enabled_user_ids
  OR OLD.disabled_user_ids IS NOT NEW.disabled_user_ids OR OLD.rollout_percentage IS NOT NEW.rollout_percentage
  OR OLD.seed IS NOT NEW.seed OR OLD.notice IS NOT NEW.notice)
BEGIN
    INSERT OR REPLACE INTO automation_context (key, value) VALUES ('updated_by', NEW.updated_by);
END;

-- A notice that was written when the flag was switched off, or since, is about
-- that; it goes when the flag is switched on, unless the statement writes one.
DROP TRIGGER IF EXISTS automation_flag_updated;
CREATE TRIGGER automation_flag_updated
AFTER UPDATE OF feature_name, enabled, enabled_user_ids, disabled_user_ids, rollout_percentage, seed, notice ON feature_flags
WHEN OLD.feature_name IS NOT NEW.feature_name OR OLD.enabled IS NOT NEW.enabled OR OLD.enabled_user_ids IS NOT NEW.enabled_user_ids
  OR OLD.disabled_user_ids IS NOT NEW.disabled_user_ids OR OLD.rollout_percentage IS NOT NEW.rollout_percentage
  OR OLD.seed IS NOT NEW.seed OR OLD.notice IS NOT NEW.notice
BEGIN
    UPDATE feature_flags SET version = OLD.version + 1, updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now'),
        updated_by = coalesce((SELECT value FROM automation_context WHERE key = 'actor'), (SELECT value FROM automation_context WHERE key = 'updated_by'), 'sql'),
        notice = iif(NEW.enabled AND NOT OLD.enabled AND NEW.notice IS OLD.notice AND EXISTS (
            SELECT 1 FROM feature_flag_events e WHERE e.feature_name = NEW.feature_name AND e.after ->> 'notice' IS NOT NULL
            AND e.id >= (SELECT max(o.id) FROM feature_flag_events o WHERE o.feature_name = NEW.feature_name AND o.after ->> 'enabled' = 0)), '', NEW.notice)
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
            UNION ALL SELECT 'notice', json_quote(OLD.notice), json_quote((SELECT notice FROM feature_flags WHERE feature_name = NEW.feature_name)))
        WHERE was IS NOT is_now) d
    WHERE f.feature_name = NEW.feature_name;
    DELETE FROM automation_context WHERE key = 'updated_by';
END;

-- A renamed flag's audit is found by the name that it had.
CREATE INDEX IF NOT EXISTS feature_flag_events_renames ON feature_flag_events (feature_name, id) WHERE action = 'update' AND before ->> 'feature_name' IS NOT NULL;

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (9, 'flag_changes', strftime('%Y-%m-%d %H:%M:%f', 'now'));
