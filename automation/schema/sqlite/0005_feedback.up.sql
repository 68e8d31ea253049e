-- What users say about the feature, see package internal/feedback.
CREATE TABLE IF NOT EXISTS automation_feedback (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT NOT NULL UNIQUE,
    user_id    TEXT NOT NULL CHECK (user_id <> ''),
    rating     INTEGER CHECK (rating BETWEEN 1 AND 5),
    message    TEXT NOT NULL CHECK (message <> '' AND length(message) <= 2000),
    stage      TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    done_at    TEXT,
    done_by    TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS automation_feedback_open ON automation_feedback (id) WHERE done_at IS NULL;
CREATE INDEX IF NOT EXISTS automation_feedback_by_stage ON automation_feedback (stage, id);
CREATE INDEX IF NOT EXISTS automation_feedback_by_user ON automation_feedback (user_id, id);
CREATE INDEX IF NOT EXISTS automation_feedback_by_time ON automation_feedback (created_at);

INSERT OR IGNORE INTO automation_schema_migrations (version, name, applied_at) VALUES (5, 'feedback', strftime('%Y-%m-%d %H:%M:%f', 'now'));
