-- Changes of flags: lists end at 10,000 ids and are checked only when they
-- change, refusals say what to type, the audit keeps who acted, and a notice
-- goes with the outage that it was about.

-- A list of more ids cannot be kept. Say which, and what to do.
DO $$
DECLARE
    long record;
BEGIN
    SELECT f.feature_name, l.col, jsonb_array_length(l.ids) AS n INTO long
    FROM feature_flags AS f, LATERAL (VALUES ('enabled_user_ids', f.enabled_user_ids), ('disabled_user_ids', f.disabled_user_ids)) AS l(col, ids)
    WHERE jsonb_typeof(l.ids) = 'array' AND jsonb_array_length(l.ids) > 10000
    ORDER BY n DESC LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the flag "%" has % ids in %, at most 10000 are allowed from now on; before you migrate, let them in by rollout_percentage or by flags of their own, and shorten the list',
            long.feature_name, long.n, long.col USING ERRCODE = 'check_violation',
            HINT = format('Keep a copy: CREATE TABLE %s_before AS SELECT feature_name, %s FROM feature_flags; then: UPDATE feature_flags SET %s = ''[]'', rollout_percentage = 100 WHERE feature_name = %L;',
                long.col, long.col, long.col, long.feature_name);
    END IF;
END
$$;

-- These looked at every element whenever any column changed.
ALTER TABLE feature_flags DROP CONSTRAINT IF EXISTS feature_flags_enabled_user_ids_is_a_list_of_ids,
                          DROP CONSTRAINT IF EXISTS feature_flags_disabled_user_ids_is_a_list_of_ids;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'feature_flags'::regclass AND conname = 'feature_flags_enabled_user_ids_is_short') THEN
        ALTER TABLE feature_flags
            ADD CONSTRAINT feature_flags_enabled_user_ids_is_short CHECK (CASE jsonb_typeof(enabled_user_ids) WHEN 'array' THEN jsonb_array_length(enabled_user_ids) <= 10000 ELSE false END),
            ADD CONSTRAINT feature_flags_disabled_user_ids_is_short CHECK (CASE jsonb_typeof(disabled_user_ids) WHEN 'array' THEN jsonb_array_length(disabled_user_ids) <= 10000 ELSE false END);
    END IF;
END
$$;

-- Refuses a malformed list of a flag.
CREATE OR REPLACE FUNCTION automation_check_ids(flag text, col text, ids jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE AS
$$
DECLARE
    bad record;
BEGIN
    IF ids IS NULL OR jsonb_typeof(ids) <> 'array' THEN
        RAISE EXCEPTION '% must be a list of user ids, not %', col, coalesce(jsonb_typeof(ids), 'NULL') USING ERRCODE = 'check_violation', COLUMN = col,
            HINT = format('Type a list: UPDATE feature_flags SET %s = ''[7, "a1"]'' WHERE feature_name = %L; an empty one is ''[]''.', col, flag);
    END IF;
    IF jsonb_array_length(ids) > 10000 THEN
        RAISE EXCEPTION '% would have % ids, at most 10000 are allowed', col, jsonb_array_length(ids) USING ERRCODE = 'check_violation', COLUMN = col,
            HINT = format('For more users type a share: UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = %L; or make a flag of their own.', flag);
    END IF;
    IF NOT automation_valid_ids(ids) THEN
        SELECT n, jsonb_typeof(v) AS kind INTO bad FROM jsonb_array_elements(ids) WITH ORDINALITY AS e(v, n)
        WHERE NOT (jsonb_typeof(v) = 'number' AND v::text !~ '[^0-9-]' OR jsonb_typeof(v) = 'string' AND v #>> '{}' <> '') LIMIT 1;
        RAISE EXCEPTION 'element % of % must be a whole number or a text that is not empty; it is a % that is neither', bad.n, col, bad.kind USING ERRCODE = 'check_violation', COLUMN = col,
            HINT = format('Type numbers plainly and texts in double quotes: UPDATE feature_flags SET %s = ''[7, "a1"]'' WHERE feature_name = %L;', col, flag);
    END IF;
END
$$;

-- One trigger for each column, which fires only when the column is given and
-- goes with it, so that a column that somebody drops stops no other change.
CREATE OR REPLACE FUNCTION automation_check_flag() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    CASE TG_ARGV[0]
    WHEN 'enabled_user_ids' THEN
        IF TG_OP = 'INSERT' OR NEW.enabled_user_ids IS DISTINCT FROM OLD.enabled_user_ids THEN
            PERFORM automation_check_ids(NEW.feature_name::text, 'enabled_user_ids', NEW.enabled_user_ids);
        END IF;
    WHEN 'disabled_user_ids' THEN
        IF TG_OP = 'INSERT' OR NEW.disabled_user_ids IS DISTINCT FROM OLD.disabled_user_ids THEN
            PERFORM automation_check_ids(NEW.feature_name::text, 'disabled_user_ids', NEW.disabled_user_ids);
        END IF;
    WHEN 'rollout_percentage' THEN
        IF NEW.rollout_percentage IS NULL OR NOT NEW.rollout_percentage BETWEEN 0 AND 100 THEN
            RAISE EXCEPTION 'rollout_percentage must be a number of per cents from 0 to 100, not %', coalesce(NEW.rollout_percentage::text, 'NULL')
                USING ERRCODE = 'check_violation', COLUMN = 'rollout_percentage',
                HINT = format('Type a number: UPDATE feature_flags SET rollout_percentage = 12.5 WHERE feature_name = %L;', NEW.feature_name);
        END IF;
    WHEN 'enabled' THEN
        IF NEW.enabled IS NULL THEN
            RAISE EXCEPTION 'enabled must be true or false, not NULL' USING ERRCODE = 'not_null_violation', COLUMN = 'enabled',
                HINT = format('To switch it off: UPDATE feature_flags SET enabled = false WHERE feature_name = %L;', NEW.feature_name);
        END IF;
    END CASE;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER automation_check_enabled BEFORE INSERT OR UPDATE OF enabled ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_check_flag('enabled');
CREATE OR REPLACE TRIGGER automation_check_percentage BEFORE INSERT OR UPDATE OF rollout_percentage ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_check_flag('rollout_percentage');
CREATE OR REPLACE TRIGGER automation_check_enabled_user_ids BEFORE INSERT OR UPDATE OF enabled_user_ids ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_check_flag('enabled_user_ids');
CREATE OR REPLACE TRIGGER automation_check_disabled_user_ids BEFORE INSERT OR UPDATE OF disabled_user_ids ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_check_flag('disabled_user_ids');

-- An updated_by that the statement gives counts even if it is the last one's.
-- Only a trigger on the column can tell; it fires before the next one, by name.
CREATE OR REPLACE FUNCTION automation_flag_actor_given() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM set_config('automation.updated_by', NEW.updated_by, true);
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER automation_flag_actor BEFORE UPDATE OF updated_by ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_flag_actor_given();

-- The lists may be long: where they have not changed, comparisons and the audit
-- are about the row without them. Both take what columns there are.
CREATE OR REPLACE FUNCTION automation_flag_changing() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
DECLARE
    given text := current_setting('automation.updated_by', true);
    lists boolean := false;
    others constant jsonb := '{"enabled_user_ids": null, "disabled_user_ids": null, "version": null, "updated_at": null, "updated_by": null}';
    copy  record;  -- a record that is passed on loses its place in TOAST, and would be stored again
BEGIN
    PERFORM set_config('automation.updated_by', '', true);
    IF TG_OP = 'INSERT' THEN
        NEW.version := 1;
        NEW.updated_by := automation_flag_actor(NEW.updated_by);
    ELSE
        BEGIN
            lists := NEW.enabled_user_ids IS DISTINCT FROM OLD.enabled_user_ids OR NEW.disabled_user_ids IS DISTINCT FROM OLD.disabled_user_ids;
        EXCEPTION WHEN undefined_column THEN
            lists := true;  -- one is gone
        END;
        copy := NEW;
        IF NOT lists AND to_jsonb(jsonb_populate_record(copy, others)) = to_jsonb(jsonb_populate_record(OLD, others)) THEN
            RETURN OLD;
        END IF;
        NEW.version := OLD.version + 1;
        NEW.updated_by := automation_flag_actor(given);
    END IF;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
-- The condition holds always; with it the columns cannot be dropped unnoticed.
CREATE OR REPLACE TRIGGER automation_flag_changing BEFORE INSERT OR UPDATE ON feature_flags
    FOR EACH ROW WHEN (num_nonnulls(NEW.version, NEW.updated_at, NEW.updated_by) >= 0) EXECUTE FUNCTION automation_flag_changing();

CREATE OR REPLACE FUNCTION automation_flag_changed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
DECLARE
    lists   boolean := true;
    old_row jsonb := '{}';
    new_row jsonb := '{}';
    latest  jsonb;
    others  constant jsonb := '{"enabled_user_ids": null, "disabled_user_ids": null}';
BEGIN
    IF TG_OP = 'UPDATE' THEN
        BEGIN
            lists := NEW.enabled_user_ids IS DISTINCT FROM OLD.enabled_user_ids OR NEW.disabled_user_ids IS DISTINCT FROM OLD.disabled_user_ids;
        EXCEPTION WHEN undefined_column THEN
            NULL;  -- one is gone
        END;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        old_row := CASE WHEN lists THEN to_jsonb(OLD) ELSE to_jsonb(jsonb_populate_record(OLD, others)) END;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_row := CASE WHEN lists THEN to_jsonb(NEW) ELSE to_jsonb(jsonb_populate_record(NEW, others)) END;
    END IF;
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    latest := CASE WHEN TG_OP = 'DELETE' THEN old_row ELSE new_row END;
    INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
    SELECT latest ->> 'feature_name', coalesce((latest ->> 'version')::bigint, 0), lower(TG_OP), clock_timestamp(),
           CASE WHEN TG_OP = 'DELETE' THEN automation_flag_actor(NULL) ELSE coalesce(new_row ->> 'updated_by', automation_flag_actor(NULL)) END,
           coalesce(jsonb_object_agg(key, old_row -> key) FILTER (WHERE old_row ? key), '{}'),
           coalesce(jsonb_object_agg(key, new_row -> key) FILTER (WHERE new_row ? key), '{}')
    FROM jsonb_object_keys(latest) AS key
    WHERE key NOT IN ('version', 'updated_at', 'updated_by') AND old_row -> key IS DISTINCT FROM new_row -> key;
    PERFORM pg_notify('automation_flags', latest ->> 'feature_name');
    RETURN NULL;
END
$$;

-- A notice that was written when the flag was switched off, or since, is about
-- that; it goes when the flag is switched on, unless the statement writes one.
CREATE OR REPLACE FUNCTION automation_flag_enabled_again() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    IF EXISTS (SELECT FROM feature_flag_events AS e WHERE e.feature_name = NEW.feature_name AND e.after ? 'notice'
               AND e.id >= (SELECT max(o.id) FROM feature_flag_events AS o WHERE o.feature_name = NEW.feature_name AND o.after @> '{"enabled": false}')) THEN
        NEW.notice := '';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER automation_flag_enabled_again BEFORE UPDATE OF enabled ON feature_flags
    FOR EACH ROW WHEN (NEW.enabled AND NOT OLD.enabled AND NEW.notice = OLD.notice AND NEW.notice <> '') EXECUTE FUNCTION automation_flag_enabled_again();

-- A renamed flag's audit is found by the name that it had.
CREATE INDEX IF NOT EXISTS feature_flag_events_renames ON feature_flag_events (feature_name, id) WHERE action = 'update' AND before ->> 'feature_name' IS NOT NULL;

-- Buckets and explanations of the ids that hosts have.
CREATE OR REPLACE FUNCTION automation_bucket(seed text, user_id bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT automation_bucket(seed, user_id::text) $$;
CREATE OR REPLACE FUNCTION automation_bucket(seed text, user_id uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT automation_bucket(seed, user_id::text) $$;

-- A user's decision, as in 0004. The bucket is -1 where there is no flag or no user.
CREATE OR REPLACE FUNCTION automation_explain(feature_name text, user_id text)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS
$$
    SELECT why.reason IN ('user_enabled', 'in_percentage'), why.reason, coalesce(its.bucket, -1), coalesce(f.version, 0)
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
CREATE OR REPLACE FUNCTION automation_explain(feature_name text, user_id bigint)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT * FROM automation_explain(feature_name, user_id::text) $$;
CREATE OR REPLACE FUNCTION automation_explain(feature_name text, user_id uuid)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT * FROM automation_explain(feature_name, user_id::text) $$;

-- Adds a user to a flag's enabled_user_ids, or removes one, and returns what
-- holds for them then. 7 and "7" are one user.
--     SELECT * FROM automation_flag_add('automation', 7);
CREATE OR REPLACE FUNCTION automation_flag_add(name text, id text)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE plpgsql AS
$$
BEGIN
    UPDATE feature_flags AS f SET enabled_user_ids = f.enabled_user_ids || to_jsonb(automation_flag_add.id)
    WHERE f.feature_name = automation_flag_add.name
      AND NOT EXISTS (SELECT FROM jsonb_array_elements_text(f.enabled_user_ids) AS e(v) WHERE e.v = automation_flag_add.id);
    RETURN QUERY SELECT * FROM automation_flag_known(automation_flag_add.name, automation_flag_add.id);
END
$$;
CREATE OR REPLACE FUNCTION automation_flag_remove(name text, id text)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE plpgsql AS
$$
BEGIN
    UPDATE feature_flags AS f SET enabled_user_ids = (SELECT coalesce(jsonb_agg(e.v ORDER BY e.n), '[]')
        FROM jsonb_array_elements(f.enabled_user_ids) WITH ORDINALITY AS e(v, n) WHERE e.v #>> '{}' <> automation_flag_remove.id)
    WHERE f.feature_name = automation_flag_remove.name
      AND EXISTS (SELECT FROM jsonb_array_elements_text(f.enabled_user_ids) AS e(v) WHERE e.v = automation_flag_remove.id);
    RETURN QUERY SELECT * FROM automation_flag_known(automation_flag_remove.name, automation_flag_remove.id);
END
$$;
-- automation_explain about a flag that must be there.
CREATE OR REPLACE FUNCTION automation_flag_known(name text, id text)
    RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE plpgsql AS
$$
BEGIN
    IF name IS NULL OR id IS NULL OR NOT EXISTS (SELECT FROM feature_flags AS f WHERE f.feature_name = automation_flag_known.name) THEN
        RAISE EXCEPTION 'there is no flag "%", or no user was given', coalesce(name, 'NULL') USING ERRCODE = 'no_data_found',
            HINT = 'These are there: SELECT feature_name FROM feature_flags; for example: SELECT * FROM automation_flag_add(''automation'', 7);';
    END IF;
    RETURN QUERY SELECT * FROM automation_explain(automation_flag_known.name, automation_flag_known.id);
END
$$;
CREATE OR REPLACE FUNCTION automation_flag_add(name text, id bigint) RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql AS $$ SELECT * FROM automation_flag_add(name, id::text) $$;
CREATE OR REPLACE FUNCTION automation_flag_add(name text, id uuid) RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql AS $$ SELECT * FROM automation_flag_add(name, id::text) $$;
CREATE OR REPLACE FUNCTION automation_flag_remove(name text, id bigint) RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql AS $$ SELECT * FROM automation_flag_remove(name, id::text) $$;
CREATE OR REPLACE FUNCTION automation_flag_remove(name text, id uuid) RETURNS TABLE (enabled boolean, reason text, bucket integer, version bigint)
    LANGUAGE sql AS $$ SELECT * FROM automation_flag_remove(name, id::text) $$;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (9, 'flag_changes', now()) ON CONFLICT DO NOTHING;
