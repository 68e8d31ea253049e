-- The way back. Tables of our own go, with their data; tables that the host
-- brought along lose what we added and get their types and foreign keys back.
DROP TABLE IF EXISTS automation_sessions;
DROP TABLE IF EXISTS automation_wallet;

DROP TRIGGER IF EXISTS automation_flag_changing ON feature_flags;
DROP TRIGGER IF EXISTS automation_flag_changed ON feature_flags;
DROP TABLE IF EXISTS feature_flag_events;

DO $$
DECLARE
    adopted record;
    item    record;
BEGIN
    SELECT * INTO adopted FROM automation_adopted_tables WHERE table_name = 'feature_flags';
    IF NOT FOUND THEN
        DROP TABLE IF EXISTS feature_flags;
    ELSE
        ALTER TABLE feature_flags
            DROP CONSTRAINT IF EXISTS feature_flags_name_is_not_empty,
            DROP CONSTRAINT IF EXISTS feature_flags_percentage_is_0_to_100,
            DROP CONSTRAINT IF EXISTS feature_flags_enabled_user_ids_is_a_list_of_ids,
            DROP CONSTRAINT IF EXISTS feature_flags_disabled_user_ids_is_a_list_of_ids,
            DROP CONSTRAINT IF EXISTS automation_one_flag_a_name,
            DROP COLUMN disabled_user_ids, DROP COLUMN rollout_percentage, DROP COLUMN seed, DROP COLUMN notice,
            DROP COLUMN version, DROP COLUMN updated_at, DROP COLUMN updated_by,
            ALTER COLUMN enabled_user_ids DROP DEFAULT;
        FOR item IN SELECT key, value #>> '{}' AS kind FROM jsonb_each(adopted.columns) LOOP
            EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %1$I TYPE %2$s USING %1$I::text::%2$s', item.key, item.kind);
        END LOOP;
    END IF;

    SELECT * INTO adopted FROM automation_adopted_tables WHERE table_name = 'user_automation_settings';
    IF NOT FOUND THEN
        DROP TABLE IF EXISTS user_automation_settings;
    ELSE
        DELETE FROM user_automation_settings WHERE deleted_at IS NOT NULL;
        DROP INDEX IF EXISTS user_automation_settings_by_change, user_automation_settings_adopters, user_automation_settings_deleted;
        ALTER TABLE user_automation_settings
            DROP CONSTRAINT IF EXISTS user_automation_settings_user_is_not_empty,
            DROP CONSTRAINT IF EXISTS user_automation_settings_duration_is_positive,
            DROP CONSTRAINT IF EXISTS automation_one_setting_a_user,
            DROP COLUMN version, DROP COLUMN deleted_at;
        FOR item IN SELECT key, value #>> '{}' AS kind FROM jsonb_each(adopted.columns) LOOP
            IF item.kind LIKE 'timestamp%' THEN
                EXECUTE format('ALTER TABLE user_automation_settings ALTER COLUMN %1$I DROP DEFAULT, ALTER COLUMN %1$I TYPE %2$s USING %1$I AT TIME ZONE ''UTC''', item.key, item.kind);
                EXECUTE format('ALTER TABLE user_automation_settings ALTER COLUMN %1$I SET DEFAULT now()', item.key);
            ELSE
                EXECUTE format('ALTER TABLE user_automation_settings ALTER COLUMN %1$I TYPE %2$s USING %1$I::%2$s', item.key, item.kind);
            END IF;
        END LOOP;
        FOR item IN SELECT key, value #>> '{}' AS definition FROM jsonb_each(adopted.constraints) LOOP
            EXECUTE format('ALTER TABLE user_automation_settings ADD CONSTRAINT %I %s', item.key, item.definition);
        END LOOP;
    END IF;
END
$$;

DROP TABLE automation_adopted_tables;
DROP FUNCTION IF EXISTS automation_flag_changing();
DROP FUNCTION IF EXISTS automation_flag_changed();
DROP FUNCTION IF EXISTS automation_audit_is_append_only();
DROP FUNCTION IF EXISTS automation_flag_actor(text);
DROP FUNCTION IF EXISTS automation_bucket(text, text);
DROP FUNCTION IF EXISTS automation_parse_ids(text);
DROP FUNCTION IF EXISTS automation_valid_ids(jsonb);
