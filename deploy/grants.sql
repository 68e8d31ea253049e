-- The rights on the automation feature's tables that the gateway's role needs.
-- The owner of the tables runs this file after every migration; it can be repeated:
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1 -f deploy/grants.sql
--
-- The owner also runs this once, for the role with which the gateway connects:
--
--     GRANT automation_service TO gateway;
--
-- `automationctl verify --role gateway` reports what is missing.
-- With these rights the gateway cannot migrate: run `automationctl migrate up`
-- as the owner. The gateway may still call Migrate, which then has nothing to do.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'automation_service') THEN
        CREATE ROLE automation_service NOLOGIN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO automation_service', current_schema());
END
$$;

-- The owner creates new flags by hand; the gateway changes existing ones.
GRANT SELECT, UPDATE ON feature_flags TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON user_automation_settings TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_sessions TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_feedback TO automation_service;
GRANT SELECT, UPDATE ON automation_wallet TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_foreign_sessions TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_provider_failures TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_waiters TO automation_service;
GRANT SELECT, INSERT, UPDATE ON automation_jobs TO automation_service;
GRANT SELECT, INSERT, UPDATE ON automation_rollouts TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_rollout_counts TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_rollout_failures TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_rollout_minutes TO automation_service;
GRANT SELECT, INSERT, UPDATE ON automation_rollout_receivers TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_rollout_outbox TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_replicas TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_user_failures TO automation_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON automation_activity TO automation_service;
GRANT SELECT ON automation_schema_migrations, automation_adopted_tables TO automation_service;

-- The audit: triggers forbid changes of rows, and allow only the clean-up to remove
-- rows.
GRANT SELECT, INSERT, DELETE ON feature_flag_events, automation_rollout_events TO automation_service;

DO $$
DECLARE
    item text;
BEGIN
    FOR item IN SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.proname LIKE 'automation\_%' AND p.prokind = 'f' AND p.pronamespace = current_schema()::regnamespace LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION ' || item || ' TO automation_service';
    END LOOP;
    -- The host's own table of settings may have a serial id.
    FOR item IN SELECT s.oid::regclass FROM pg_class s
        JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a' AND d.refobjid = 'user_automation_settings'::regclass
        WHERE s.relkind = 'S' LOOP
        EXECUTE 'GRANT USAGE ON SEQUENCE ' || item || ' TO automation_service';
    END LOOP;
END
$$;
