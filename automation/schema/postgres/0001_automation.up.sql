-- The automation feature's tables. One transaction; every statement can be run
-- again. Tables named feature_flags and user_automation_settings that the host
-- has already are adopted with their data; what they were like is written down
-- first, for the way back.

-- Each migration records itself, whichever tool applies it, and its way back
-- removes the record.
CREATE TABLE IF NOT EXISTS automation_schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS automation_adopted_tables (
    table_name text PRIMARY KEY,
    was        jsonb,   -- the host's columns, and the flags' values; NULL: there was no such table
    adopted_at timestamptz NOT NULL DEFAULT now()
);
-- A table without our trigger and without any column that we add is the host's
-- own, perhaps restored from a backup of before: it is described again.
INSERT INTO automation_adopted_tables (table_name, was)
SELECT name, CASE WHEN to_regclass(name) IS NOT NULL THEN jsonb_build_object('columns', (
        SELECT coalesce(jsonb_object_agg(a.attname, jsonb_build_object('type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull, 'default', pg_get_expr(d.adbin, d.adrelid))), '{}')
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = to_regclass(name) AND a.attnum > 0 AND NOT a.attisdropped)) END
FROM unnest(ARRAY['feature_flags', 'user_automation_settings']) AS name
ON CONFLICT (table_name) DO UPDATE SET was = excluded.was, adopted_at = now()
WHERE excluded.was IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(excluded.table_name) AND tgname IN ('automation_flag_changing', 'automation_setting_changing'))
  AND NOT EXISTS (SELECT FROM unnest(ARRAY['disabled_user_ids', 'rollout_percentage', 'seed', 'notice', 'version', 'updated_by', 'deleted_at']) AS added
                  WHERE excluded.was -> 'columns' ? added AND NOT coalesce(automation_adopted_tables.was -> 'columns' ? added, false));

-- A list of user ids: numbers without a fraction, or texts. 7 and "7" are one user.
CREATE OR REPLACE FUNCTION automation_valid_ids(ids jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$
    SELECT CASE WHEN jsonb_typeof(ids) = 'array' THEN NOT EXISTS (
        SELECT FROM jsonb_array_elements(ids) AS e(v)
        WHERE NOT (jsonb_typeof(v) = 'number' AND v::text !~ '[^0-9-]'
                OR jsonb_typeof(v) = 'string' AND v #>> '{}' <> ''))
    ELSE false END
$$;

-- What hosts kept in a column of their own: JSON, a comma-separated list, an
-- array, or nothing.
CREATE OR REPLACE FUNCTION automation_parse_ids(list text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS
$$
BEGIN
    IF lower(coalesce(btrim(list), '')) IN ('', 'null') THEN
        RETURN '[]';
    END IF;
    IF btrim(list) LIKE '[%' THEN
        BEGIN
            RETURN list::jsonb;
        EXCEPTION WHEN invalid_text_representation THEN
            NULL;  -- [a, b]
        END;
    END IF;
    RETURN (SELECT coalesce(jsonb_agg(btrim(id, ' "''') ORDER BY n), '[]')
        FROM unnest(string_to_array(btrim(list, '[]{} '), ',')) WITH ORDINALITY AS e(id, n) WHERE btrim(id, ' "''') <> '');
END
$$;

-- The bucket of a user, 0 to 9999: the first four bytes, big-endian, of
-- SHA-256 of seed || '.' || user, modulo 10,000. The same as flags.Bucket.
CREATE OR REPLACE FUNCTION automation_bucket(seed text, user_id text) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$
    SELECT ((('x' || substr(encode(sha256(convert_to(seed || '.' || user_id, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint) % 10000)::integer
$$;

-- The three columns of the plan, unless the host has a table already.
CREATE TABLE IF NOT EXISTS feature_flags (
    feature_name     text PRIMARY KEY,
    enabled          boolean NOT NULL DEFAULT false,
    enabled_user_ids jsonb NOT NULL DEFAULT '[]'
);

-- What cannot be adopted is refused by table, row and remedy, before anything
-- is changed. A dry run executes this block alone, and that of the settings.
DO $$
DECLARE
    refused_of CONSTANT text := 'feature_flags';
    bad record;
BEGIN
    IF (SELECT relkind NOT IN ('r', 'p') FROM pg_class WHERE oid = 'feature_flags'::regclass) THEN
        RAISE EXCEPTION 'feature_flags is not a table'
            USING ERRCODE = 'wrong_object_type', HINT = 'Rename it and migrate again: the module creates a table of that name.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'feature_flags'::regclass AND attname = 'feature_name' AND NOT attisdropped) THEN
        RAISE EXCEPTION 'feature_flags has no column feature_name'
            USING ERRCODE = 'undefined_column', HINT = 'ALTER TABLE feature_flags RENAME COLUMN (the one with the name) TO feature_name; or rename the table, if it is something else.';
    END IF;
    FOR bad IN SELECT to_jsonb(f)::text AS is FROM feature_flags AS f WHERE coalesce(feature_name, '') = '' LOOP
        RAISE EXCEPTION 'feature_flags has a row without a feature_name: %', bad.is
            USING ERRCODE = 'not_null_violation', HINT = 'DELETE FROM feature_flags WHERE coalesce(feature_name, '''') = ''''';
    END LOOP;
    FOR bad IN SELECT feature_name AS name, count(*) AS n FROM feature_flags GROUP BY 1 HAVING count(*) > 1 LOOP
        RAISE EXCEPTION 'feature_flags has % rows of the flag %', bad.n, quote_literal(bad.name)
            USING ERRCODE = 'unique_violation', HINT = format('Keep one and delete the others by their ctid: SELECT ctid, * FROM feature_flags WHERE feature_name = %L', bad.name);
    END LOOP;
    FOR bad IN SELECT feature_name AS name, to_jsonb(f) ->> 'enabled' AS is FROM feature_flags AS f
               WHERE lower(btrim(coalesce(to_jsonb(f) ->> 'enabled', 'false'))) NOT IN ('t', 'true', 'y', 'yes', 'on', '1', 'f', 'false', 'n', 'no', 'off', '0') LOOP
        RAISE EXCEPTION 'feature_flags: enabled of the flag % is %, neither true nor false', quote_literal(bad.name), quote_literal(bad.is)
            USING ERRCODE = 'invalid_text_representation', HINT = format('UPDATE feature_flags SET enabled = (true or false, as the column writes it) WHERE feature_name = %L', bad.name);
    END LOOP;
    FOR bad IN SELECT feature_name AS name, list.key AS col, list.value AS is FROM feature_flags AS f, jsonb_each_text(to_jsonb(f)) AS list
               WHERE list.key IN ('enabled_user_ids', 'disabled_user_ids') AND NOT automation_valid_ids(automation_parse_ids(list.value)) LOOP
        RAISE EXCEPTION 'feature_flags: % of the flag % is no list of user ids: %', bad.col, quote_literal(bad.name), left(bad.is, 200)
            USING ERRCODE = 'check_violation', HINT = format('Whole numbers or texts, as a JSON list or separated by commas: UPDATE feature_flags SET %I = ''[1, 2, 3]'' WHERE feature_name = %L', bad.col, bad.name);
    END LOOP;
    FOR bad IN SELECT feature_name AS name, to_jsonb(f) ->> 'rollout_percentage' AS is FROM feature_flags AS f
               WHERE to_jsonb(f) ->> 'rollout_percentage' !~ '^ *(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?) *$' LOOP
        RAISE EXCEPTION 'feature_flags: rollout_percentage of the flag % is %, expected 0 to 100', quote_literal(bad.name), bad.is
            USING ERRCODE = 'check_violation', HINT = format('UPDATE feature_flags SET rollout_percentage = 0 WHERE feature_name = %L', bad.name);
    END LOOP;
    FOR bad IN SELECT wanted.col, wanted.kind, string_agg(DISTINCT r.ev_class::regclass::text, ', ') AS views
               FROM (VALUES ('enabled', 'boolean'), ('enabled_user_ids', 'jsonb'), ('disabled_user_ids', 'jsonb'), ('rollout_percentage', 'numeric(5,2)'), ('seed', 'text'), ('notice', 'text'),
                            ('version', 'bigint'), ('updated_at', 'timestamp with time zone'), ('updated_by', 'text')) AS wanted(col, kind)
               JOIN pg_attribute a ON a.attrelid = refused_of::regclass AND a.attname = wanted.col AND NOT a.attisdropped AND format_type(a.atttypid, a.atttypmod) <> wanted.kind
               JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
               JOIN pg_rewrite r ON r.oid = d.objid GROUP BY 1, 2 LOOP
        RAISE EXCEPTION 'feature_flags: the column % has to become %, and these views use it: %', bad.col, bad.kind, bad.views
            USING ERRCODE = 'dependent_objects_still_exist',
            HINT = format('Save their definition (\d+ in psql), DROP VIEW %s, migrate, and create them again.', bad.views);
    END LOOP;
END
$$;

-- The host's values as they were, for the way back.
DO $$
DECLARE
    list text := (SELECT string_agg(format('%L, %I::text', key, key), ', ') FROM automation_adopted_tables, jsonb_object_keys(was -> 'columns') AS key
                  WHERE table_name = 'feature_flags' AND NOT was ? 'rows'
                    AND key IN ('enabled', 'enabled_user_ids', 'disabled_user_ids', 'rollout_percentage', 'seed', 'notice', 'version', 'updated_at', 'updated_by'));
    rows jsonb;
BEGIN
    ALTER TABLE feature_flags ALTER COLUMN feature_name SET NOT NULL;
    IF EXISTS (SELECT FROM automation_adopted_tables WHERE table_name = 'feature_flags' AND NOT was ? 'rows') THEN
        EXECUTE format('SELECT coalesce(jsonb_object_agg(feature_name, jsonb_build_object(%s)), ''{}'') FROM feature_flags', coalesce(list, '')) INTO rows;
        UPDATE automation_adopted_tables SET was = was || jsonb_build_object('rows', rows) WHERE table_name = 'feature_flags';
    END IF;
END
$$;

-- Gives feature_flags a column as the module needs it, whether it has none or
-- one of the host's. Times without a zone are read as UTC.
CREATE OR REPLACE FUNCTION automation_adopt(col text, wanted text, fallback text) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    kind text;
BEGIN
    SELECT format_type(atttypid, atttypmod) INTO kind FROM pg_attribute WHERE attrelid = 'feature_flags'::regclass AND attname = col AND NOT attisdropped;
    IF kind IS NULL THEN
        EXECUTE format('ALTER TABLE feature_flags ADD COLUMN %I %s NOT NULL DEFAULT %s', col, wanted, fallback);
        RETURN;
    END IF;
    IF kind <> wanted THEN
        EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %1$I DROP DEFAULT, ALTER COLUMN %1$I TYPE %2$s USING %3$s', col, wanted, format(
            CASE WHEN wanted = 'jsonb' THEN 'automation_parse_ids(%I::text)'
                 WHEN wanted LIKE 'timestamp%' AND kind LIKE 'timestamp%without time zone' THEN '%I AT TIME ZONE ''UTC'''
                 ELSE '%I::text::' || wanted END, col));
    END IF;
    EXECUTE format('UPDATE feature_flags SET %1$I = %2$s WHERE %1$I IS NULL', col, fallback);
    IF wanted = 'jsonb' THEN
        EXECUTE format('UPDATE feature_flags SET %1$I = ''[]'' WHERE %1$I = ''null''', col);
    END IF;
    EXECUTE format('ALTER TABLE feature_flags ALTER COLUMN %1$I SET NOT NULL, ALTER COLUMN %1$I SET DEFAULT %2$s', col, fallback);
END
$$;
SELECT automation_adopt('enabled', 'boolean', 'false'),
       automation_adopt('enabled_user_ids', 'jsonb', quote_literal('[]')),
       automation_adopt('disabled_user_ids', 'jsonb', quote_literal('[]')),
       automation_adopt('rollout_percentage', 'numeric(5,2)', '0'),
       automation_adopt('seed', 'text', quote_literal('')),
       automation_adopt('notice', 'text', quote_literal('')),
       automation_adopt('version', 'bigint', '1'),
       automation_adopt('updated_at', 'timestamp with time zone', 'now()'),
       automation_adopt('updated_by', 'text', quote_literal(''));
DROP FUNCTION automation_adopt(text, text, text);

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                   WHERE i.indrelid = 'feature_flags'::regclass AND i.indisunique AND i.indimmediate AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'feature_name') THEN
        ALTER TABLE feature_flags ADD CONSTRAINT automation_one_flag_a_name UNIQUE (feature_name);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'feature_flags'::regclass AND conname = 'feature_flags_percentage_is_0_to_100') THEN
        ALTER TABLE feature_flags
            ADD CONSTRAINT feature_flags_name_is_not_empty CHECK (feature_name <> ''),
            ADD CONSTRAINT feature_flags_percentage_is_0_to_100 CHECK (rollout_percentage >= 0 AND rollout_percentage <= 100),
            ADD CONSTRAINT feature_flags_enabled_user_ids_is_a_list_of_ids CHECK (automation_valid_ids(enabled_user_ids)),
            ADD CONSTRAINT feature_flags_disabled_user_ids_is_a_list_of_ids CHECK (automation_valid_ids(disabled_user_ids));
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS feature_flag_events (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    feature_name text NOT NULL,
    version      bigint NOT NULL,
    action       text NOT NULL CHECK (action IN ('insert', 'update', 'delete')),
    changed_at   timestamptz NOT NULL,
    changed_by   text NOT NULL,
    before       jsonb NOT NULL,   -- only what changed
    after        jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS feature_flag_events_by_flag ON feature_flag_events (feature_name, id);
CREATE INDEX IF NOT EXISTS feature_flag_events_by_time ON feature_flag_events (changed_at);

-- Who is changing a flag: the setting automation.actor of the transaction, or
-- an updated_by given in the statement, or the role's name.
CREATE OR REPLACE FUNCTION automation_flag_actor(given text) RETURNS text
    LANGUAGE sql STABLE AS
$$
    SELECT coalesce(nullif(current_setting('automation.actor', true), ''), nullif(given, ''), 'sql:' || session_user)
$$;

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

CREATE OR REPLACE TRIGGER automation_flag_changing BEFORE INSERT OR UPDATE ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_flag_changing();
CREATE OR REPLACE TRIGGER automation_flag_changed AFTER INSERT OR UPDATE OR DELETE ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION automation_flag_changed();

-- TRUNCATE fires no row's trigger; this way it is in the audit as well.
CREATE OR REPLACE FUNCTION automation_flags_truncated() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    DELETE FROM feature_flags;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER automation_flags_truncated BEFORE TRUNCATE ON feature_flags
    FOR EACH STATEMENT EXECUTE FUNCTION automation_flags_truncated();

-- The audit is append-only. A row can be deleted once it is 90 days old, which
-- is less than any retention of the clean-up; younger ones nobody can delete,
-- whatever the role may do to the table.
CREATE OR REPLACE FUNCTION automation_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    IF TG_OP = 'DELETE' AND (to_jsonb(OLD) ->> TG_ARGV[0])::timestamptz < now() - interval '90 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege',
        HINT = 'Rows can be deleted once they are 90 days old; the clean-up deletes those past their retention.';
END
$$;
CREATE OR REPLACE TRIGGER automation_append_only BEFORE UPDATE OR DELETE ON feature_flag_events
    FOR EACH ROW EXECUTE FUNCTION automation_audit_is_append_only('changed_at');
CREATE OR REPLACE TRIGGER automation_append_only_truncate BEFORE TRUNCATE ON feature_flag_events
    FOR EACH STATEMENT EXECUTE FUNCTION automation_audit_is_append_only();

-- Nobody is in until somebody says so.
INSERT INTO feature_flags (feature_name, enabled, updated_by) VALUES ('automation', true, 'migration')
ON CONFLICT (feature_name) DO NOTHING;

-- A host's table keeps its columns, with their types, NULLs and foreign keys,
-- because programs of the host go on using it: the module's SQL compares users
-- as text and reads NULL as the default. Only what is missing is added.
CREATE TABLE IF NOT EXISTS user_automation_settings (
    user_id          text PRIMARY KEY CONSTRAINT user_automation_settings_user_is_not_empty CHECK (user_id <> ''),
    is_enabled       boolean NOT NULL DEFAULT false,
    session_duration integer NOT NULL DEFAULT 3600 CONSTRAINT user_automation_settings_duration_is_positive CHECK (session_duration > 0),
    version          bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at       timestamptz
);
DO $$
DECLARE
    refused_of CONSTANT text := 'user_automation_settings';
    bad record;
BEGIN
    IF (SELECT relkind NOT IN ('r', 'p') FROM pg_class WHERE oid = refused_of::regclass) THEN
        RAISE EXCEPTION 'user_automation_settings is not a table'
            USING ERRCODE = 'wrong_object_type', HINT = 'Rename it and migrate again: the module creates a table of that name.';
    END IF;
    FOR bad IN SELECT wanted.col, format_type(a.atttypid, a.atttypmod) AS kind, array_to_string(kinds, ', ') AS kinds, kinds[1] AS one
               FROM (VALUES ('user_id', '{text,varchar,bpchar,int8,int4,int2,uuid}'::text[]), ('is_enabled', '{bool}'), ('session_duration', '{int4,int8,int2}'),
                            ('version', '{int8,int4}'), ('created_at', '{timestamptz,timestamp}'), ('updated_at', '{timestamptz,timestamp}'), ('deleted_at', '{timestamptz,timestamp}')) AS wanted(col, kinds)
               LEFT JOIN pg_attribute a ON a.attrelid = 'user_automation_settings'::regclass AND a.attname = wanted.col AND NOT a.attisdropped
               LEFT JOIN pg_type t ON t.oid = a.atttypid
               WHERE t.typname::text <> ALL (wanted.kinds) OR t.oid IS NULL AND wanted.col = 'user_id' LOOP
        IF bad.kind IS NULL THEN
            RAISE EXCEPTION 'user_automation_settings has no column user_id'
                USING ERRCODE = 'undefined_column', HINT = 'ALTER TABLE user_automation_settings RENAME COLUMN (the one with the user) TO user_id; or rename the table, if it is something else.';
        END IF;
        RAISE EXCEPTION 'user_automation_settings: the column % is %, expected one of %', bad.col, bad.kind, bad.kinds
            USING ERRCODE = 'datatype_mismatch', HINT = format('Convert it once your programs can follow: ALTER TABLE user_automation_settings ALTER COLUMN %I TYPE %s USING (an expression); or rename the table.', bad.col, bad.one);
    END LOOP;
    FOR bad IN SELECT user_id::text AS id, count(*) AS n FROM user_automation_settings WHERE user_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1 LOOP
        RAISE EXCEPTION 'user_automation_settings has % rows of the user %', bad.n, quote_literal(bad.id)
            USING ERRCODE = 'unique_violation', HINT = format('Keep one and delete the others by their ctid: SELECT ctid, * FROM user_automation_settings WHERE user_id = %L', bad.id);
    END LOOP;
END
$$;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                   WHERE i.indrelid = 'user_automation_settings'::regclass AND i.indisunique AND i.indimmediate AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'user_id') THEN
        ALTER TABLE user_automation_settings ADD CONSTRAINT automation_one_setting_a_user UNIQUE (user_id);
    END IF;
    -- No index on a number serves a comparison as text.
    IF (SELECT atttypid NOT IN ('text'::regtype, 'varchar'::regtype) FROM pg_attribute WHERE attrelid = 'user_automation_settings'::regclass AND attname = 'user_id') THEN
        CREATE INDEX IF NOT EXISTS user_automation_settings_by_user ON user_automation_settings ((user_id::text));
    END IF;
END
$$;
ALTER TABLE user_automation_settings
    ADD COLUMN IF NOT EXISTS is_enabled boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS session_duration integer NOT NULL DEFAULT 3600,
    ADD COLUMN IF NOT EXISTS version bigint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS deleted_at timestamptz;

-- Writes by other programs and by hand get a new version and time, by which
-- caches and If-Match notice them, and give settings back to a user who had
-- removed them. NULL is what an object mapper writes into a column whose
-- default it does not know.
CREATE OR REPLACE FUNCTION automation_setting_changing() RETURNS trigger LANGUAGE plpgsql SET timezone = 'UTC' AS
$$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.version := coalesce(NEW.version, 1);
        NEW.created_at := coalesce(NEW.created_at, clock_timestamp());
        NEW.updated_at := coalesce(NEW.updated_at, clock_timestamp());
    ELSIF NEW.version IS NOT DISTINCT FROM OLD.version
        AND (NEW.is_enabled, NEW.session_duration) IS DISTINCT FROM (OLD.is_enabled, OLD.session_duration) THEN
        NEW.version := coalesce(OLD.version, 0) + 1;
        NEW.updated_at := clock_timestamp();
        NEW.deleted_at := NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER automation_setting_changing BEFORE INSERT OR UPDATE ON user_automation_settings
    FOR EACH ROW EXECUTE FUNCTION automation_setting_changing();

-- For the caches, which ask what changed lately, and for the clean-up.
CREATE INDEX IF NOT EXISTS user_automation_settings_by_change ON user_automation_settings (updated_at);
CREATE INDEX IF NOT EXISTS user_automation_settings_adopters ON user_automation_settings ((user_id::text)) WHERE is_enabled AND deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS user_automation_settings_deleted ON user_automation_settings (deleted_at) WHERE deleted_at IS NOT NULL;

-- A row is an intent first and a paid session later. Whoever works on a row, a
-- request, an opener, a closer, holds its lease; a lease that nobody extends ends.
-- No index has a column of the lease in it, so claims are heap-only updates.
CREATE TABLE IF NOT EXISTS automation_sessions (
    id           text PRIMARY KEY,                -- ours
    session_id   text UNIQUE,                     -- the chain's, once known
    model_id     text NOT NULL,
    owner_id     text NOT NULL,                   -- who may use it; empty: anyone, or nobody yet
    user_id      text NOT NULL,                   -- whose budget it counts against; empty: nobody's
    charged_at   timestamptz,                     -- since when it does
    duration     integer NOT NULL CHECK (duration > 0),  -- seconds asked for
    state        text NOT NULL CHECK (state IN ('opening', 'unknown', 'open', 'ending', 'closed', 'failed', 'lost')),
    reason       text NOT NULL DEFAULT '',        -- why it left open, or failed
    last_error   text NOT NULL DEFAULT '',
    provider     text NOT NULL DEFAULT '',
    omit_provider text NOT NULL DEFAULT '',
    replaces     text UNIQUE,                     -- the row whose successor this is
    lane         text NOT NULL DEFAULT '' CHECK (lane IN ('', 'shared', 'alone')),
    lease_token  text,
    lease_holder text,
    lease_until  timestamptz,
    created_at   timestamptz NOT NULL,
    called_at    timestamptz,                     -- when the node was asked to open
    unknown_at   timestamptz,                     -- since when nobody can say whether it was opened
    opened_at    timestamptz,
    ends_at      timestamptz,
    last_used_at timestamptz,
    closed_at    timestamptz,
    next_at      timestamptz NOT NULL,            -- when maintenance looks at it next
    attempts     integer NOT NULL DEFAULT 0,      -- of maintenance
    CHECK (state NOT IN ('open', 'ending', 'closed') OR session_id IS NOT NULL AND ends_at IS NOT NULL),
    CHECK ((lease_token IS NULL) = (lease_until IS NULL) AND (lease_token IS NULL) = (lease_holder IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS automation_sessions_claim ON automation_sessions (owner_id, model_id, ends_at) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS automation_sessions_budget ON automation_sessions (user_id, charged_at) WHERE user_id <> '';
CREATE INDEX IF NOT EXISTS automation_sessions_pool ON automation_sessions (owner_id, model_id) WHERE state IN ('opening', 'unknown', 'open', 'ending');
CREATE INDEX IF NOT EXISTS automation_sessions_held ON automation_sessions (user_id) WHERE state IN ('opening', 'unknown', 'open', 'ending');
CREATE INDEX IF NOT EXISTS automation_sessions_due ON automation_sessions (next_at) WHERE state IN ('opening', 'unknown', 'open', 'ending', 'lost');
CREATE INDEX IF NOT EXISTS automation_sessions_lanes ON automation_sessions (id) WHERE lane <> '';
CREATE INDEX IF NOT EXISTS automation_sessions_ended ON automation_sessions (closed_at) WHERE state IN ('closed', 'failed');

-- One row for the wallet: until when its transactions go one at a time.
CREATE TABLE IF NOT EXISTS automation_wallet (
    name        text PRIMARY KEY,
    alone_until timestamptz NOT NULL
);
INSERT INTO automation_wallet (name, alone_until) VALUES ('wallet', 'epoch') ON CONFLICT DO NOTHING;

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (1, 'automation', now()) ON CONFLICT DO NOTHING;
