DROP FUNCTION IF EXISTS automation_explain(text, text);
