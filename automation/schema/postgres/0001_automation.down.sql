-- The way back. Tables of our own go, with their data; a table that the host
-- brought along loses what we added and is again what it was.
DROP TABLE IF EXISTS automation_sessions;
DROP TABLE IF EXISTS automation_wallet;

DROP TRIGGER IF EXISTS automation_flag_changing ON feature_flags;
DROP TRIGGER IF EXISTS automation_flag_changed ON feature_flags;
DROP TRIGGER IF EXISTS automation_flags_truncated ON feature_flags;
DROP TRIGGER IF EXISTS automation_setting_changing ON user_automation_settings;
DROP TABLE IF EXISTS feature_flag_events;

-- What adoption made of a value of the host's, which it wrote in another type or
-- as NULL.
CREATE OR REPLACE FUNCTION automation_adopted_value(given text, wanted text, was text) RETURNS text
    LANGUAGE sql STABLE AS
$$
    SELECT CASE WHEN wanted = 'jsonb' THEN automation_parse_ids(given)::text
                WHEN wanted = 'boolean' THEN coalesce(given::boolean, false)::text
                WHEN wanted LIKE 'timestamp%' AND was LIKE 'timestamp%without time zone' THEN (given::timestamp AT TIME ZONE 'UTC')::text
                WHEN wanted LIKE 'timestamp%' THEN given::timestamptz::text
                WHEN wanted LIKE 'numeric%' THEN coalesce(given::numeric(5,2), 0)::text
                WHEN wanted = 'bigint' THEN coalesce(given::bigint, 1)::text
                ELSE coalesce(given, '') END
$$;

-- Gives a column of feature_flags back: drops it, or restores the host's type,
-- default and values. A value that nobody has changed since adoption is written
-- as the host wrote it, another one in the same manner.
CREATE OR REPLACE FUNCTION automation_give_back(col text, was jsonb, rows jsonb) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    old       jsonb := was -> col;
    kind      text;
    unchanged jsonb;  -- by the flag's name
BEGIN
    IF old IS NULL THEN
        EXECUTE format('ALTER TABLE feature_flags DROP COLUMN IF EXISTS %I', col);
        RETURN;
    END IF;
    SELECT format_type(atttypid, atttypmod) INTO kind FROM pg_attribute WHERE attrelid = 'feature_flags'::regclass AND attname = col;
    EXECUTE format('SELECT coalesce(jsonb_object_agg(f.feature_name, r.value -> %1$L), ''{}'') FROM feature_flags AS f JOIN jsonb_each($1) AS r ON r.key = f.feature_name
        WHERE f.%1$I::text IS NOT DISTINCT FROM automation_adopted_value(r.value ->> %1$L, %2$L, %3$L)', col, kind, old ->> 'type') INTO unchanged USING rows;
    EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %1$I DROP DEFAULT, ALTER COLUMN %1$I DROP NOT NULL', col);
    IF kind <> old ->> 'type' THEN
        EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %1$I TYPE %2$s USING (%3$s)::%2$s', col, old ->> 'type', format(
            CASE WHEN kind = 'jsonb' AND old ->> 'type' LIKE '%[]' THEN 'translate(%I::text, ''[]'', ''{}'')'
                 WHEN kind LIKE 'timestamp%' AND old ->> 'type' LIKE 'timestamp%without time zone' THEN '%I AT TIME ZONE ''UTC'''
                 WHEN kind = 'boolean' AND old ->> 'type' ~ '^(smallint|integer|bigint|numeric)' THEN '%I::integer'
                 WHEN kind LIKE 'numeric%' THEN '%I'
                 ELSE '%I::text' END, col));
    END IF;
    IF kind = 'jsonb' AND old ->> 'type' ~ '^(text|character)' THEN
        EXECUTE format('UPDATE feature_flags AS f SET %1$I = (SELECT coalesce(string_agg(e.id, '',''), '''') FROM jsonb_array_elements_text(automation_parse_ids(f.%1$I)) AS e(id))
            WHERE NOT $1 ? f.feature_name AND ltrim($2 -> f.feature_name ->> %1$L) !~ ''^[[{]''', col) USING unchanged, rows;
    END IF;
    EXECUTE format('UPDATE feature_flags AS f SET %1$I = ($1 ->> f.feature_name)::%2$s WHERE $1 ? f.feature_name AND f.%1$I::text IS DISTINCT FROM $1 ->> f.feature_name',
        col, old ->> 'type') USING unchanged;
    IF old ->> 'default' IS NOT NULL THEN
        EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %I SET DEFAULT %s', col, old ->> 'default');
    END IF;
    IF (old -> 'not_null')::boolean THEN
        EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %I SET NOT NULL', col);
    END IF;
END
$$;

DO $$
DECLARE
    old jsonb := (SELECT was FROM automation_adopted_tables WHERE table_name = 'feature_flags');
    col text;
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
    DELETE FROM feature_flags WHERE feature_name = 'automation' AND NOT old -> 'rows' ? 'automation';
    FOREACH col IN ARRAY ARRAY['enabled', 'enabled_user_ids', 'disabled_user_ids', 'rollout_percentage', 'seed', 'notice', 'version', 'updated_at', 'updated_by'] LOOP
        PERFORM automation_give_back(col, old -> 'columns', old -> 'rows');
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = 'feature_flags'::regclass AND indisprimary AND indkey[0] =
            (SELECT attnum FROM pg_attribute WHERE attrelid = 'feature_flags'::regclass AND attname = 'feature_name'))
        AND NOT (old #> '{columns,feature_name,not_null}')::boolean THEN
        ALTER TABLE feature_flags ALTER COLUMN feature_name DROP NOT NULL;
    END IF;
END
$$;

DO $$
DECLARE
    old jsonb := (SELECT was FROM automation_adopted_tables WHERE table_name = 'user_automation_settings');
    col text;
BEGIN
    IF old IS NULL THEN
        DROP TABLE IF EXISTS user_automation_settings;
        RETURN;
    END IF;
    DELETE FROM user_automation_settings WHERE deleted_at IS NOT NULL;
    DROP INDEX IF EXISTS user_automation_settings_by_change, user_automation_settings_adopters, user_automation_settings_deleted, user_automation_settings_by_user;
    ALTER TABLE user_automation_settings DROP CONSTRAINT IF EXISTS automation_one_setting_a_user;
    FOREACH col IN ARRAY ARRAY['is_enabled', 'session_duration', 'version', 'created_at', 'updated_at', 'deleted_at'] LOOP
        IF NOT old -> 'columns' ? col THEN
            EXECUTE format('ALTER TABLE user_automation_settings DROP COLUMN IF EXISTS %I', col);
        END IF;
    END LOOP;
END
$$;

DROP TABLE automation_adopted_tables;
DROP FUNCTION automation_give_back(text, jsonb, jsonb);
DROP FUNCTION automation_adopted_value(text, text, text);
DROP FUNCTION IF EXISTS automation_flag_changing();
DROP FUNCTION IF EXISTS automation_flag_changed();
DROP FUNCTION IF EXISTS automation_flags_truncated();
DROP FUNCTION IF EXISTS automation_setting_changing();
DROP FUNCTION IF EXISTS automation_audit_is_append_only();
DROP FUNCTION IF EXISTS automation_flag_actor(text);
DROP FUNCTION IF EXISTS automation_bucket(text, text);
DROP FUNCTION IF EXISTS automation_parse_ids(text);
DROP FUNCTION IF EXISTS automation_valid_ids(jsonb);
DROP TABLE automation_schema_migrations;
