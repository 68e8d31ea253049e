-- The processes of the fleet, as they report themselves; see package
-- internal/replica.
CREATE TABLE IF NOT EXISTS automation_replicas (
    id              text PRIMARY KEY,            -- of one process's life
    host            text NOT NULL,
    version         text NOT NULL,
    started_at      timestamptz NOT NULL,
    seen_at         timestamptz NOT NULL,        -- the last report
    feature_enabled boolean NOT NULL,            -- its master switch
    flag_version    bigint NOT NULL,             -- of the flag that it decides by
    flag_age        double precision NOT NULL,   -- seconds since it last read the flags
    problems        jsonb NOT NULL DEFAULT '{}', -- what does not work, by component
    requests        bigint NOT NULL,             -- of the last minute
    failures        bigint NOT NULL,
    node_failures   bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS automation_replicas_by_time ON automation_replicas (seen_at);

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (8, 'replicas', now()) ON CONFLICT DO NOTHING;
