DROP FUNCTION IF EXISTS automation_explain(text, text);
DELETE FROM automation_schema_migrations WHERE version = 4;
