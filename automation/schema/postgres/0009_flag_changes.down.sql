-- The way back: lists without an end that are checked with every change.
DROP FUNCTION IF EXISTS automation_flag_add(text, text), automation_flag_add(text, bigint), automation_flag_add(text, uuid),
    automation_flag_remove(text, text), automation_flag_remove(text, bigint), automation_flag_remove(text, uuid), automation_flag_known(text, text),
    automation_explain(text, bigint), automation_explain(text, uuid), automation_bucket(text, bigint), automation_bucket(text, uuid);
DROP INDEX IF EXISTS feature_flag_events_renames;
DO $$
BEGIN
    IF to_regclass('feature_flags') IS NOT NULL THEN
        DROP TRIGGER IF EXISTS automation_check_enabled ON feature_flags;
        DROP TRIGGER IF EXISTS automation_check_percentage ON feature_flags;
        DROP TRIGGER IF EXISTS automation_check_enabled_user_ids ON feature_flags;
        DROP TRIGGER IF EXISTS automation_check_disabled_user_ids ON feature_flags;
        DROP TRIGGER IF EXISTS automation_flag_actor ON feature_flags;
        DROP TRIGGER IF EXISTS automation_flag_enabled_again ON feature_flags;
        ALTER TABLE feature_flags DROP CONSTRAINT IF EXISTS feature_flags_enabled_user_ids_is_short,
                                  DROP CONSTRAINT IF EXISTS feature_flags_disabled_user_ids_is_short;
        IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'feature_flags'::regclass AND conname = 'feature_flags_enabled_user_ids_is_a_list_of_ids') THEN
            ALTER TABLE feature_flags
                ADD CONSTRAINT feature_flags_enabled_user_ids_is_a_list_of_ids CHECK (automation_valid_ids(enabled_user_ids)),
                ADD CONSTRAINT feature_flags_disabled_user_ids_is_a_list_of_ids CHECK (automation_valid_ids(disabled_user_ids));
        END IF;
        CREATE OR REPLACE TRIGGER automation_flag_changing BEFORE INSERT OR UPDATE ON feature_flags
            FOR EACH ROW EXECUTE FUNCTION automation_flag_changing();
    END IF;
END
$$;
DROP FUNCTION IF EXISTS automation_check_flag(), automation_check_ids(text, text, jsonb), automation_flag_actor_given(), automation_flag_enabled_again();
CREATE OR REPLACE FUNCTION automation_flag_changing() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.version := 1;
        NEW.updated_by := automation_flag_actor(NEW.updated_by);
    ELSIF to_jsonb(NEW) - '{version,updated_at,updated_by}'::text[] = to_jsonb(OLD) - '{version,updated_at,updated_by}'::text[] THEN
        RETURN OLD;
    ELSE
        NEW.version := OLD.version + 1;
        NEW.updated_by := automation_flag_actor(CASE WHEN NEW.updated_by <> OLD.updated_by THEN NEW.updated_by END);
    END IF;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE OR REPLACE FUNCTION automation_flag_changed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
DECLARE
    old_row jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
BEGIN
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
    SELECT coalesce(NEW.feature_name, OLD.feature_name),
           coalesce(NEW.version, OLD.version), lower(TG_OP), clock_timestamp(),
           CASE WHEN TG_OP = 'DELETE' THEN automation_flag_actor(NULL) ELSE NEW.updated_by END,
           coalesce(jsonb_object_agg(key, old_row -> key) FILTER (WHERE old_row ? key), '{}'),
           coalesce(jsonb_object_agg(key, new_row -> key) FILTER (WHERE new_row ? key), '{}')
    FROM (SELECT jsonb_object_keys(old_row || new_row) AS key) AS keys
    WHERE key NOT IN ('version', 'updated_at', 'updated_by') AND old_row -> key IS DISTINCT FROM new_row -> key;
    PERFORM pg_notify('automation_flags', coalesce(NEW.feature_name, OLD.feature_name));
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION automation_explain(feature_name text, user_id text)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS
$$
    SELECT why.reason IN ('user_enabled', 'in_percentage'), why.reason, coalesce(its.bucket, 0), coalesce(f.version, 0)
    FROM (SELECT automation_explain.user_id AS id,
                 to_jsonb(automation_explain.user_id) AS as_text,
                 CASE WHEN automation_explain.user_id ~ '^(0|-?[1-9][0-9]*)$' AND length(automation_explain.user_id) <= 131072
                      THEN automation_explain.user_id::jsonb END AS as_number) AS u
    LEFT JOIN feature_flags AS f ON f.feature_name = automation_explain.feature_name
    CROSS JOIN LATERAL (SELECT automation_bucket(coalesce(nullif(f.seed, ''), f.feature_name), u.id) AS bucket) AS its
    CROSS JOIN LATERAL (SELECT CASE
        WHEN f.feature_name IS NULL THEN 'missing'
        WHEN NOT f.enabled THEN 'disabled'
        WHEN f.disabled_user_ids @> u.as_text OR f.disabled_user_ids @> u.as_number THEN 'user_disabled'
        WHEN f.enabled_user_ids @> u.as_text OR f.enabled_user_ids @> u.as_number THEN 'user_enabled'
        WHEN its.bucket < f.rollout_percentage * 100 THEN 'in_percentage'
        ELSE 'outside_percentage' END AS reason) AS why
$$;
DELETE FROM automation_schema_migrations WHERE version = 9;
