package schema

// The catalogues of the databases, read as objects.

const postgresInventory = `
WITH tables AS (
	SELECT oid, relname FROM pg_class WHERE relkind IN ('r', 'p') AND pg_table_is_visible(oid)
		AND (relname LIKE 'automation\_%' OR relname LIKE 'feature\_flag%' OR relname = 'user_automation_settings')
), defaults AS (
	SELECT adrelid, adnum, pg_get_expr(adbin, adrelid) AS is FROM pg_attrdef
), objects AS (
	SELECT 'table' AS kind, '' AS tbl, relname AS name, '' AS def, '' AS creates FROM tables
UNION ALL
	SELECT 'column', t.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
		format('ALTER TABLE %I ADD COLUMN %I %s%s%s', t.relname, a.attname, format_type(a.atttypid, a.atttypmod),
			CASE WHEN a.attidentity <> '' THEN ' GENERATED ALWAYS AS IDENTITY' WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, coalesce(' DEFAULT ' || d.is, ''))
	FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN defaults d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL -- whether it is called a constraint or an index, and how, is all the same
	SELECT DISTINCT 'key', t.relname, k.columns, '', format('ALTER TABLE %I ADD UNIQUE (%s)', t.relname, k.columns)
	FROM tables t JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
	CROSS JOIN LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY n) AS columns
		FROM unnest(i.indkey) WITH ORDINALITY AS c(attnum, n) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.attnum) k
UNION ALL
	SELECT 'check', t.relname, c.conname, pg_get_constraintdef(c.oid), format('ALTER TABLE %I ADD CONSTRAINT %I %s', t.relname, c.conname, pg_get_constraintdef(c.oid))
	FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'c'
UNION ALL
	SELECT 'index', t.relname, x.relname, pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END, pg_get_indexdef(i.indexrelid)
	FROM tables t JOIN pg_index i ON i.indrelid = t.oid AND NOT i.indisunique JOIN pg_class x ON x.oid = i.indexrelid
UNION ALL
	SELECT 'trigger', t.relname, g.tgname, pg_get_triggerdef(g.oid) || CASE WHEN g.tgenabled IN ('O', 'A') THEN '' ELSE ' (disabled)' END, pg_get_triggerdef(g.oid)
	FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
UNION ALL
	SELECT 'function', '', format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), d.def, d.def
	-- The path is that of whoever made it.
	FROM pg_proc p CROSS JOIN LATERAL (SELECT regexp_replace(pg_get_functiondef(p.oid), E'\n SET search_path TO [^\n]*', E'\n SET search_path FROM CURRENT') AS def) d
	WHERE p.proname LIKE 'automation\_%' AND p.prokind = 'f' AND pg_function_is_visible(p.oid)
)
SELECT kind, tbl, name, replace(def, quote_ident(current_schema()) || '.', '') AS def, replace(creates, quote_ident(current_schema()) || '.', '') AS creates FROM objects`

const sqliteInventory = `
SELECT type AS kind, CASE WHEN type = 'table' THEN '' ELSE tbl_name END AS tbl, name, CASE WHEN type = 'table' THEN '' ELSE sql END AS def, '' AS creates
FROM sqlite_master WHERE sql IS NOT NULL
	AND (tbl_name LIKE 'automation\_%' ESCAPE '\' OR tbl_name LIKE 'feature\_flag%' ESCAPE '\' OR tbl_name = 'user_automation_settings')
UNION ALL
SELECT 'column', m.name, c.name, c.type || iif(c."notnull", ' NOT NULL', ''), 'ALTER TABLE ' || m.name || ' ADD COLUMN ' || c.name || ' ' || c.type || coalesce(iif(c."notnull", ' NOT NULL', '') || ' DEFAULT ' || c.dflt_value, '')
FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'
	AND (m.name LIKE 'automation\_%' ESCAPE '\' OR m.name LIKE 'feature\_flag%' ESCAPE '\' OR m.name = 'user_automation_settings')`
