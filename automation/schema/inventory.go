package schema

import (
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// expectedFiles list the objects that the migrations create, one per line. A test
// compares them with a migrated database and rewrites them with -update.
//
//go:embed expected/*.txt
var expectedFiles embed.FS

// object is something that the migrations create. The two databases format definitions
// differently, so a definition is compared only with one of the same database.
type object struct {
	Kind       string `db:"kind"` // table, column, key, check, index, trigger, function
	Table      string `db:"tbl"`  // the table it belongs to, empty for tables and functions
	Name       string `db:"name"` // for a key: its columns
	Definition string `db:"def"`  // or its digest, if it has several lines
	Default    string `db:"dflt"` // for a column: its DEFAULT or GENERATED clause
}

func (o object) String() string {
	switch o.Kind {
	case "column", "check", "trigger":
		return o.Kind + " " + o.Name + " of " + o.Table
	case "key":
		return "unique key (" + o.Name + ") of " + o.Table
	}
	return o.Kind + " " + o.Name
}

// group returns the table by which the inventory is sorted. Functions have none and come
// first, so that the objects can be created in this order.
func (o object) group() string {
	if o.Kind == "table" {
		return o.Name
	}
	return o.Table
}

// createStatement returns the statement that creates the object.
func (o object) createStatement(sqlite bool) string {
	switch o.Kind {
	case "column":
		kind := o.Definition
		if sqlite && o.Default == "" { // SQLite cannot add a NOT NULL column without a default
			kind = strings.TrimSuffix(kind, " NOT NULL")
		}
		return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s%s;", o.Table, o.Name, kind, o.Default)
	case "key":
		return fmt.Sprintf("ALTER TABLE %s ADD UNIQUE (%s);", o.Table, o.Name)
	case "check":
		return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s;", o.Table, o.Name, o.Definition)
	}
	if strings.HasPrefix(o.Definition, digestPrefix) {
		return embeddedStatement(sqlite, o.Kind, o.Name)
	}
	return o.Definition + ";"
}

// digestPrefix begins the digest that replaces a definition of several lines. The
// migrations have the text.
const digestPrefix = "sha256 "

// digest returns a definition of one line as it is, and the digest of a longer one.
func digest(definition string) string {
	if !strings.Contains(definition, "\n") {
		return definition
	}
	sum := sha256.Sum256([]byte(definition))
	return digestPrefix + hex.EncodeToString(sum[:8])
}

// embeddedStatement returns the statement that creates a function or a trigger, from the
// newest migration that has one.
func embeddedStatement(sqlite bool, kind, name string) string {
	for _, m := range slices.Backward(embedded(sqlite)) {
		text, err := files.ReadFile(m.fileName(sqlite, "up"))
		if err != nil {
			panic(err) // cannot happen: embedded has just listed the file
		}
		for _, s := range slices.Backward(splitStatements(string(text))) {
			isFunction := kind == "function" && strings.Contains(s.text, "CREATE OR REPLACE FUNCTION "+name)
			isTrigger := kind == "trigger" && strings.Contains(s.text, "CREATE TRIGGER IF NOT EXISTS "+name+" ")
			if isFunction || isTrigger {
				return s.text
			}
		}
	}
	return "-- automationctl migrate up"
}

// expected returns the objects that the migrations create.
func expected(sqlite bool) []object {
	text, err := expectedFiles.ReadFile("expected/" + dir(sqlite) + ".txt")
	if err != nil {
		panic(err) // cannot happen: the file is embedded
	}
	var list []object
	table := ""
	for line := range strings.Lines(string(text)) {
		subject, definition, _ := strings.Cut(strings.TrimSpace(line), ": ")
		o := object{Definition: definition}
		o.Kind, o.Name, _ = strings.Cut(subject, " ")
		switch {
		case o.Kind == "table":
			table = o.Name
		case strings.HasPrefix(line, " "):
			o.Table = table
		}
		if o.Kind == "column" {
			for _, keyword := range []string{" GENERATED ", " DEFAULT "} {
				if i := strings.Index(definition, keyword); i >= 0 {
					o.Definition, o.Default = definition[:i], definition[i:]
				}
			}
		}
		list = append(list, o)
	}
	return list
}

// inventory returns the module's objects in the database, in a fixed order.
func inventory(tx *sqldb.Tx) ([]object, error) {
	query := postgresInventory
	if tx.SQLite() {
		query = sqliteInventory
	}
	var list []object
	err := tx.Select(&list, query)
	for i, o := range list {
		list[i].Definition = digest(strings.TrimSpace(o.Definition))
	}
	order := []string{"table", "column", "key", "check", "index", "trigger"}
	slices.SortStableFunc(list, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.group(), b.group()), cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

// These queries read the databases' catalogs as objects.

const postgresInventory = `
WITH tables AS (
	SELECT oid, relname FROM pg_class WHERE relkind IN ('r', 'p') AND pg_table_is_visible(oid)
		AND (relname LIKE 'automation\_%' OR relname LIKE 'feature\_flag%' OR relname = 'user_automation_settings')
), defaults AS (
	SELECT adrelid, adnum, pg_get_expr(adbin, adrelid) AS expression FROM pg_attrdef
), objects AS (
	SELECT 'table' AS kind, '' AS tbl, relname AS name, '' AS def, '' AS dflt FROM tables
UNION ALL
	SELECT 'column', t.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
		CASE WHEN a.attidentity <> '' THEN ' GENERATED ALWAYS AS IDENTITY' ELSE coalesce(' DEFAULT ' || d.expression, '') END
	FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN defaults d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL -- a unique key may be a constraint or an index, of any name
	SELECT DISTINCT 'key', t.relname, k.columns, '', ''
	FROM tables t JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
	CROSS JOIN LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY n) AS columns
		FROM unnest(i.indkey) WITH ORDINALITY AS c(attnum, n) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.attnum) k
UNION ALL
	SELECT 'check', t.relname, c.conname, pg_get_constraintdef(c.oid), ''
	FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'c'
UNION ALL
	SELECT 'index', t.relname, x.relname, pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END, ''
	FROM tables t JOIN pg_index i ON i.indrelid = t.oid AND NOT i.indisunique JOIN pg_class x ON x.oid = i.indexrelid
UNION ALL
	SELECT 'trigger', t.relname, g.tgname, pg_get_triggerdef(g.oid) || CASE WHEN g.tgenabled IN ('O', 'A') THEN '' ELSE ' (disabled)' END, ''
	FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
UNION ALL
	SELECT 'function', '', format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
	-- A function has the search_path of the role that created it.
		regexp_replace(pg_get_functiondef(p.oid), E'\n SET search_path TO [^\n]*', E'\n SET search_path FROM CURRENT'), ''
	FROM pg_proc p
	WHERE p.proname LIKE 'automation\_%' AND p.prokind = 'f' AND pg_function_is_visible(p.oid)
)
SELECT kind, tbl, name, replace(def, quote_ident(current_schema()) || '.', '') AS def, replace(dflt, quote_ident(current_schema()) || '.', '') AS dflt FROM objects`

const sqliteInventory = `
SELECT type AS kind, CASE WHEN type = 'table' THEN '' ELSE tbl_name END AS tbl, name, CASE WHEN type = 'table' THEN '' ELSE sql END AS def, '' AS dflt
FROM sqlite_master WHERE sql IS NOT NULL
	AND (tbl_name LIKE 'automation\_%' ESCAPE '\' OR tbl_name LIKE 'feature\_flag%' ESCAPE '\' OR tbl_name = 'user_automation_settings')
UNION ALL
SELECT 'column', m.name, c.name, c.type || iif(c."notnull", ' NOT NULL', ''), coalesce(' DEFAULT ' || c.dflt_value, '')
FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'
	AND (m.name LIKE 'automation\_%' ESCAPE '\' OR m.name LIKE 'feature\_flag%' ESCAPE '\' OR m.name = 'user_automation_settings')`
