-- The way back: lists without an end.
DROP INDEX IF EXISTS feature_flag_events_renames;
DROP TRIGGER IF EXISTS automation_flag_actor;
DROP TRIGGER IF EXISTS automation_flag_ids_insert;
DROP TRIGGER IF EXISTS automation_flag_ids_update;
DROP TRIGGER IF EXISTS automation_flag_updated;
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
DELETE FROM automation_schema_migrations WHERE version = 9;
