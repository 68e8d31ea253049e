-- The way back. Tables of our own go, with their data; tables that the host
-- brought along lose what we added and are again what they were.
DROP TABLE IF EXISTS automation_sessions;
DROP TABLE IF EXISTS automation_wallet;

DROP TRIGGER IF EXISTS automation_flag_changing ON feature_flags;
DROP TRIGGER IF EXISTS automation_flag_changed ON feature_flags;
DROP TRIGGER IF EXISTS automation_flags_truncated ON feature_flags;
DROP TABLE IF EXISTS feature_flag_events;

-- Sees to it that a table of the host's has those of our columns that it had,
-- and as it had them.
CREATE OR REPLACE FUNCTION automation_give_back(tbl text, columns text[], was jsonb) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    col  text;
    kind text;
    old  jsonb;
BEGIN
    FOREACH col IN ARRAY columns LOOP
        old := was -> 'columns' -> col;
        IF old IS NULL THEN
            EXECUTE format('ALTER TABLE %I DROP COLUMN IF EXISTS %I', tbl, col);
            CONTINUE;
        END IF;
        SELECT format_type(atttypid, atttypmod) INTO kind FROM pg_attribute WHERE attrelid = tbl::regclass AND attname = col;
        EXECUTE format('ALTER TABLE %I ALTER COLUMN %I DROP DEFAULT', tbl, col);
        IF kind <> old ->> 'type' THEN
            EXECUTE format('ALTER TABLE %1$I ALTER COLUMN %2$I TYPE %3$s USING (%4$s)::%3$s', tbl, col, old ->> 'type', format(
                CASE WHEN kind = 'jsonb' AND old ->> 'type' LIKE '%[]' THEN 'translate(%I::text, ''[]'', ''{}'')'
                     WHEN kind LIKE 'timestamp%' AND old ->> 'type' LIKE 'timestamp%without time zone' THEN '%I AT TIME ZONE ''UTC'''
                     WHEN kind LIKE 'numeric%' THEN '%I'
                     ELSE '%I::text' END, col));
        END IF;
        IF old ->> 'default' IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT %s', tbl, col, old ->> 'default');
        END IF;
        IF NOT (old -> 'not_null')::boolean THEN
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I DROP NOT NULL', tbl, col);
        END IF;
    END LOOP;
END
$$;

DO $$
DECLARE
    old jsonb := (SELECT was FROM automation_adopted_tables WHERE table_name = 'feature_flags');
BEGIN
    IF old IS NULL THEN
        DROP TABLE IF EXISTS feature_flags;
        RETURN;
    END IF;
    ALTER TABLE feature_flags
        DROP CONSTRAINT IF EXISTS feature_flags_name_is_not_empty,
        DROP CONSTRAINT IF EXISTS feature_flags_percentage_is_0_to_100,
        DROP CONSTRAINT IF EXISTS feature_flags_enabled_user_ids_is_a_list_of_ids,
        DROP CONSTRAINT IF EXISTS feature_flags_disabled_user_ids_is_a_list_of_ids,
        DROP CONSTRAINT IF EXISTS automation_one_flag_a_name;
    PERFORM automation_give_back('feature_flags', ARRAY['feature_name', 'enabled', 'enabled_user_ids', 'disabled_user_ids',
        'rollout_percentage', 'seed', 'notice', 'version', 'updated_at', 'updated_by'], old);
    -- A list that is still the same is written as the host wrote it, another one
    -- in the same manner.
    EXECUTE format($q$
        UPDATE feature_flags f SET enabled_user_ids = (CASE
            WHEN automation_parse_ids(l.list) = automation_parse_ids(f.enabled_user_ids::text) THEN l.list
            WHEN ltrim(l.list) NOT LIKE '[%%' AND ltrim(l.list) NOT LIKE '{%%'
                THEN (SELECT string_agg(e.id, ',') FROM jsonb_array_elements_text(automation_parse_ids(f.enabled_user_ids::text)) AS e(id))
            ELSE f.enabled_user_ids::text END)::%s
        FROM (SELECT key AS name, value #>> '{}' AS list FROM jsonb_each($1)) AS l WHERE l.name = f.feature_name$q$,
        old #>> '{columns,enabled_user_ids,type}') USING old -> 'lists';
    DELETE FROM feature_flags WHERE feature_name = 'automation' AND NOT old -> 'lists' ? 'automation';
END
$$;

DO $$
DECLARE
    old jsonb := (SELECT was FROM automation_adopted_tables WHERE table_name = 'user_automation_settings');
    fk  record;
    n   bigint;
BEGIN
    IF old IS NULL THEN
        DROP TABLE IF EXISTS user_automation_settings;
        RETURN;
    END IF;
    DELETE FROM user_automation_settings WHERE deleted_at IS NOT NULL;
    IF old #>> '{columns,user_id,type}' IN ('smallint', 'integer', 'bigint') THEN
        SELECT count(*) INTO n FROM user_automation_settings WHERE user_id !~ '^-?[0-9]{1,19}$';
        IF n > 0 THEN
            RAISE EXCEPTION 'user_automation_settings has % rows whose user_id is not a number, which the column that was there cannot hold', n
                USING ERRCODE = 'data_exception', HINT = 'Keep them elsewhere, remove them, and try again: DELETE FROM user_automation_settings WHERE user_id !~ ''^-?[0-9]{1,19}$''';
        END IF;
    END IF;
    DROP INDEX IF EXISTS user_automation_settings_by_change, user_automation_settings_adopters, user_automation_settings_deleted;
    ALTER TABLE user_automation_settings
        DROP CONSTRAINT IF EXISTS user_automation_settings_user_is_not_empty,
        DROP CONSTRAINT IF EXISTS user_automation_settings_duration_is_positive,
        DROP CONSTRAINT IF EXISTS automation_one_setting_a_user;
    PERFORM automation_give_back('user_automation_settings', ARRAY['user_id', 'is_enabled', 'session_duration', 'version',
        'created_at', 'updated_at', 'deleted_at'], old);
    FOR fk IN SELECT key AS name, value #>> '{}' AS definition FROM jsonb_each(old -> 'foreign_keys') LOOP
        BEGIN
            EXECUTE format('ALTER TABLE user_automation_settings ADD CONSTRAINT %I %s', fk.name, fk.definition);
        EXCEPTION WHEN foreign_key_violation THEN
            RAISE WARNING 'user_automation_settings has rows of users who are gone; the foreign key % holds for new rows only', fk.name;
            EXECUTE format('ALTER TABLE user_automation_settings ADD CONSTRAINT %I %s NOT VALID', fk.name, fk.definition);
        END;
    END LOOP;
END
$$;

DROP TABLE automation_adopted_tables;
DROP FUNCTION automation_give_back(text, text[], jsonb);
DROP FUNCTION IF EXISTS automation_flag_changing();
DROP FUNCTION IF EXISTS automation_flag_changed();
DROP FUNCTION IF EXISTS automation_flags_truncated();
DROP FUNCTION IF EXISTS automation_audit_is_append_only();
DROP FUNCTION IF EXISTS automation_flag_actor(text);
DROP FUNCTION IF EXISTS automation_bucket(text, text);
DROP FUNCTION IF EXISTS automation_parse_ids(text);
DROP FUNCTION IF EXISTS automation_valid_ids(jsonb);
DROP TABLE automation_schema_migrations;
