-- Empties the automation feature's tables, so that a dump of their rows can be
-- restored: see "Backup and return" in docs/runbook.md. While it runs, all gateways
-- must be stopped or have AUTOMATION_FEATURE_ENABLED=false.
DO $$
DECLARE
    name text;
BEGIN
    -- Triggers refuse to truncate the audit, and audit a TRUNCATE of the flags.
    ALTER TABLE feature_flag_events DISABLE TRIGGER USER;
    ALTER TABLE automation_rollout_events DISABLE TRIGGER USER;
    ALTER TABLE feature_flags DISABLE TRIGGER USER;
    FOR name IN SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
          AND (c.relname LIKE 'automation\_%' OR c.relname IN ('feature_flags', 'feature_flag_events', 'user_automation_settings'))
    LOOP
        EXECUTE format('TRUNCATE %s', name);
    END LOOP;
    ALTER TABLE feature_flag_events ENABLE TRIGGER USER;
    ALTER TABLE automation_rollout_events ENABLE TRIGGER USER;
    ALTER TABLE feature_flags ENABLE TRIGGER USER;
END
$$;
