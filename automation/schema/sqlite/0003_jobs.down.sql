-- The way back: when the jobs ran last is forgotten.
DROP TABLE IF EXISTS automation_jobs;
