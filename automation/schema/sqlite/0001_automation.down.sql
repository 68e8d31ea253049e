-- The way back: everything goes, with its data.
DROP TABLE IF EXISTS automation_sessions;
DROP TABLE IF EXISTS automation_wallet;
DROP TABLE IF EXISTS user_automation_settings;
DROP TABLE IF EXISTS feature_flags;
DROP TABLE IF EXISTS feature_flag_events;
DROP TABLE IF EXISTS automation_context;
DROP TABLE automation_schema_migrations;
