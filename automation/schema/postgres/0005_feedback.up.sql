-- What users say about the feature, see package internal/feedback.
CREATE TABLE IF NOT EXISTS automation_feedback (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key        text NOT NULL UNIQUE,          -- of the submission, so that a repeated insert stores nothing
    user_id    text NOT NULL CHECK (user_id <> ''),
    rating     smallint CHECK (rating BETWEEN 1 AND 5),
    message    text NOT NULL CHECK (message <> '' AND char_length(message) <= 2000),
    stage      text NOT NULL DEFAULT '',      -- of the rollout when it was written
    created_at timestamptz NOT NULL,
    done_at    timestamptz,                   -- when an operator dealt with it
    done_by    text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS automation_feedback_open ON automation_feedback (id) WHERE done_at IS NULL;
CREATE INDEX IF NOT EXISTS automation_feedback_by_stage ON automation_feedback (stage, id);
CREATE INDEX IF NOT EXISTS automation_feedback_by_user ON automation_feedback (user_id, id);
CREATE INDEX IF NOT EXISTS automation_feedback_by_time ON automation_feedback (created_at);

INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (5, 'feedback', now()) ON CONFLICT DO NOTHING;
