-- The staged rollouts' tables, see package flags/rollout. One transaction;
-- every statement can be run again.

-- A rollout is named after the flag that it moves.
CREATE TABLE IF NOT EXISTS automation_rollouts (
    name         text PRIMARY KEY CHECK (name <> ''),
    plan         jsonb NOT NULL CHECK (jsonb_typeof(plan) = 'object'),
    state        text NOT NULL CHECK (state IN ('pending', 'running', 'paused', 'completed', 'rolled_back', 'aborted')),
    reason       text NOT NULL DEFAULT '',     -- why it is paused or ended: operator, breach, hand_edit
    waiting      text NOT NULL DEFAULT '',     -- what a running stage waits for
    epoch        integer NOT NULL CHECK (epoch > 0),
    stage        integer NOT NULL CHECK (stage >= 0),
    bake         bigint NOT NULL,              -- a stage's watch, from its beginning; counts are kept by it
    approved     boolean NOT NULL DEFAULT false,
    watched      double precision NOT NULL DEFAULT 0 CHECK (watched >= 0),  -- seconds of this bake
    watch        jsonb NOT NULL DEFAULT '{}',  -- what the policy remembers
    flag_version bigint NOT NULL DEFAULT 0,    -- the flag's, as we left it; another is a hand edit
    seq          bigint NOT NULL,              -- of the last event
    began_at     timestamptz NOT NULL,         -- the epoch
    entered_at   timestamptz NOT NULL,         -- the stage, or the state that ended it
    looked_at    timestamptz NOT NULL,         -- the last look at the evidence
    next_at      timestamptz NOT NULL          -- when the next one is due
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS automation_rollouts_active ON automation_rollouts (name) WHERE state IN ('running', 'paused');

-- The history, append-only: one row for each transition, numbered without gaps.
CREATE TABLE IF NOT EXISTS automation_rollout_events (
    rollout    text NOT NULL,
    seq        bigint NOT NULL,
    epoch      integer NOT NULL,
    stage      integer NOT NULL,
    bake       bigint NOT NULL,
    stage_name text NOT NULL,
    percentage numeric(5,2) NOT NULL,
    action     text NOT NULL,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    actor      text NOT NULL,
    detail     text NOT NULL,
    evidence   jsonb NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (rollout, seq)
);
CREATE INDEX IF NOT EXISTS automation_rollout_events_by_time ON automation_rollout_events (at);
CREATE OR REPLACE TRIGGER automation_append_only BEFORE UPDATE OR DELETE ON automation_rollout_events
    FOR EACH ROW EXECUTE FUNCTION automation_audit_is_append_only('at');
CREATE OR REPLACE TRIGGER automation_append_only_truncate BEFORE TRUNCATE ON automation_rollout_events
    FOR EACH STATEMENT EXECUTE FUNCTION automation_audit_is_append_only();

-- The evidence: what one incarnation of a replica has counted in one bake, in
-- all since it began. Nobody's id is in it.
CREATE TABLE IF NOT EXISTS automation_rollout_counts (
    rollout     text NOT NULL,
    bake        bigint NOT NULL,
    incarnation text NOT NULL,
    arm         text NOT NULL CHECK (arm IN ('exposed', 'control')),
    epoch       integer NOT NULL,
    stage       integer NOT NULL,
    outcomes    bigint NOT NULL,            -- successes and failures
    failures    bigint NOT NULL,
    ignored     bigint NOT NULL,            -- the caller's errors and the host's
    slow        bigint NOT NULL,            -- outcomes over the plan's latency
    db_slow     bigint NOT NULL,            -- outcomes over the plan's database time
    latency_us  bigint NOT NULL,            -- the sum over the outcomes
    db_us       bigint NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (rollout, bake, incarnation, arm)
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS automation_rollout_counts_by_epoch ON automation_rollout_counts (rollout, epoch, stage);

-- Who is told of events by webhook: those that some replica has lately known.
CREATE TABLE IF NOT EXISTS automation_rollout_receivers (
    name    text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

-- What receivers are still to be told, or were.
CREATE TABLE IF NOT EXISTS automation_rollout_outbox (
    receiver   text NOT NULL,
    rollout    text NOT NULL,
    seq        bigint NOT NULL,
    body       text NOT NULL,
    attempts   integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    next_at    timestamptz NOT NULL,
    sent_at    timestamptz,
    PRIMARY KEY (receiver, rollout, seq)
);
CREATE INDEX IF NOT EXISTS automation_rollout_outbox_unsent ON automation_rollout_outbox (receiver, rollout, seq) WHERE sent_at IS NULL;
CREATE INDEX IF NOT EXISTS automation_rollout_outbox_by_time ON automation_rollout_outbox (created_at);

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (2, 'rollouts', now()) ON CONFLICT DO NOTHING;
