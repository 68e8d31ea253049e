-- A user's decision, as flags.Explain gives it in Go, but for the master switch
-- of a gateway's process, which the database does not know. Always one row:
--     SELECT * FROM automation_explain('automation', '7');
--     SELECT u.id, e.* FROM users AS u, automation_explain('automation', u.id::text) AS e;
-- Numbers in the lists are the texts that they are written as, so 7 and "7" are
-- one user. Beyond 131,072 digits PostgreSQL has no numbers, so no such are listed.
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

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (4, 'explain', now()) ON CONFLICT DO NOTHING;
