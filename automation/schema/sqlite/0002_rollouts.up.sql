-- The staged rollouts' tables, see package flags/rollout. The same names and
-- columns as on PostgreSQL.

-- A rollout is named after the flag that it moves.
CREATE TABLE IF NOT EXISTS automation_rollouts (
    name         TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    plan         TEXT NOT NULL CHECK (json_valid(plan) AND json_type(plan) = 'object'),
    state        TEXT NOT NULL CHECK (state IN ('pending', 'running', 'paused', 'completed', 'rolled_back', 'aborted')),
    reason       TEXT NOT NULL DEFAULT '',     -- why it is paused or ended: operator, breach, hand_edit
    waiting      TEXT NOT NULL DEFAULT '',     -- what a running stage waits for
    epoch        INTEGER NOT NULL CHECK (epoch > 0),
    stage        INTEGER NOT NULL CHECK (stage >= 0),
    bake         INTEGER NOT NULL,             -- a stage's watch, from its beginning; counts are kept by it
    approved     BOOLEAN NOT NULL DEFAULT FALSE CHECK (approved IN (0, 1)),
    watched      REAL NOT NULL DEFAULT 0 CHECK (watched >= 0),  -- seconds of this bake
    watch        TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(watch)),  -- what the policy remembers
    flag_version INTEGER NOT NULL DEFAULT 0,   -- the flag's, as we left it; another is a hand edit
    seq          INTEGER NOT NULL,             -- of the last event
    began_at     TEXT NOT NULL,                -- the epoch
    entered_at   TEXT NOT NULL,                -- the stage, or the state that ended it
    looked_at    TEXT NOT NULL,                -- the last look at the evidence
    next_at      TEXT NOT NULL                 -- when the next one is due
);
CREATE INDEX IF NOT EXISTS automation_rollouts_active ON automation_rollouts (name) WHERE state IN ('running', 'paused');

-- The history, append-only: one row for each transition, numbered without gaps.
CREATE TABLE IF NOT EXISTS automation_rollout_events (
    rollout    TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    bake       INTEGER NOT NULL,
    stage_name TEXT NOT NULL,
    percentage REAL NOT NULL,
    action     TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state   TEXT NOT NULL,
    actor      TEXT NOT NULL,
    detail     TEXT NOT NULL,
    evidence   TEXT NOT NULL CHECK (json_valid(evidence)),
    at         TEXT NOT NULL,
    PRIMARY KEY (rollout, seq)
);
CREATE INDEX IF NOT EXISTS automation_rollout_events_by_time ON automation_rollout_events (at);
CREATE TRIGGER IF NOT EXISTS automation_rollout_append_only_update BEFORE UPDATE ON automation_rollout_events
BEGIN
    SELECT RAISE(ABORT, 'automation_rollout_events is append-only');
END;
CREATE TRIGGER IF NOT EXISTS automation_rollout_append_only_delete BEFORE DELETE ON automation_rollout_events
WHEN OLD.at >= strftime('%Y-%m-%d %H:%M:%f', 'now', '-90 days')
BEGIN
    SELECT RAISE(ABORT, 'automation_rollout_events is append-only');
END;

-- The evidence: what one incarnation of a replica has counted in one bake, in
-- all since it began. Nobody's id is in it.
CREATE TABLE IF NOT EXISTS automation_rollout_counts (
    rollout     TEXT NOT NULL,
    bake        INTEGER NOT NULL,
    incarnation TEXT NOT NULL,
    arm         TEXT NOT NULL CHECK (arm IN ('exposed', 'control')),
    epoch       INTEGER NOT NULL,
    stage       INTEGER NOT NULL,
    outcomes    INTEGER NOT NULL,           -- successes and failures
    failures    INTEGER NOT NULL,
    ignored     INTEGER NOT NULL,           -- the caller's errors and the host's
    slow        INTEGER NOT NULL,           -- outcomes over the plan's latency
    db_slow     INTEGER NOT NULL,           -- outcomes over the plan's database time
    latency_us  INTEGER NOT NULL,           -- the sum over the outcomes
    db_us       INTEGER NOT NULL,
    updated_at  TEXT NOT NULL,
    PRIMARY KEY (rollout, bake, incarnation, arm)
);
CREATE INDEX IF NOT EXISTS automation_rollout_counts_by_epoch ON automation_rollout_counts (rollout, epoch, stage);

-- Who is told of events by webhook: those that some replica has lately known.
CREATE TABLE IF NOT EXISTS automation_rollout_receivers (
    name   TEXT NOT NULL PRIMARY KEY,
    seen_at TEXT NOT NULL
);

-- What receivers are still to be told, or were.
CREATE TABLE IF NOT EXISTS automation_rollout_outbox (
    receiver   TEXT NOT NULL,
    rollout    TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    body       TEXT NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    next_at    TEXT NOT NULL,
    sent_at    TEXT,
    PRIMARY KEY (receiver, rollout, seq)
);
CREATE INDEX IF NOT EXISTS automation_rollout_outbox_unsent ON automation_rollout_outbox (receiver, rollout, seq) WHERE sent_at IS NULL;
CREATE INDEX IF NOT EXISTS automation_rollout_outbox_by_time ON automation_rollout_outbox (created_at);

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (2, 'rollouts', strftime('%Y-%m-%d %H:%M:%f', 'now'));
