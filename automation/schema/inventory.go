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

// expectedFiles list what the migrations create, one object a line. A test
// compares them with a migrated database and rewrites them with -update.
//
//go:embed expected/*.txt
var expectedFiles embed.FS

// object is one thing that the migrations create. Definitions read differently
// in the two databases; they are never compared with each other.
type object struct {
	Kind    string `db:"kind"` // table, column, key, check, index, trigger, function
	Table   string `db:"tbl"`  // the table it belongs to, empty for tables and functions
	Name    string `db:"name"` // of a key: its columns
	Is      string `db:"def"`  // its definition, or the digest of one that has many lines
	Default string `db:"dflt"` // of a column: what follows its type in ADD COLUMN
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

// group orders the listing so that it can be created from top to bottom:
// functions, then tables with what belongs to them.
func (o object) group() string {
	if o.Kind == "table" {
		return o.Name
	}
	return o.Table
}

// create returns the statement that creates the object.
func (o object) create(lite bool) string {
	switch o.Kind {
	case "column":
		kind := o.Is
		if lite && o.Default == "" { // SQLite adds no NOT NULL without a default
			kind = strings.TrimSuffix(kind, " NOT NULL")
		}
		return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s%s;", o.Table, o.Name, kind, o.Default)
	case "key":
		return fmt.Sprintf("ALTER TABLE %s ADD UNIQUE (%s);", o.Table, o.Name)
	case "check":
		return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s;", o.Table, o.Name, o.Is)
	}
	if strings.HasPrefix(o.Is, digestPrefix) {
		return embeddedStatement(lite, o.Kind, o.Name)
	}
	return o.Is + ";"
}

// A definition of many lines is listed by its digest; the migrations have the text.
const digestPrefix = "sha256 "

func digest(definition string) string {
	if !strings.Contains(definition, "\n") {
		return definition
	}
	sum := sha256.Sum256([]byte(definition))
	return digestPrefix + hex.EncodeToString(sum[:8])
}

// embeddedStatement returns the newest migration's statement that creates a
// function or a trigger.
func embeddedStatement(lite bool, kind, name string) string {
	for _, m := range slices.Backward(embedded(lite)) {
		text, err := files.ReadFile(m.file(lite, "up"))
		if err != nil {
			panic(err) // embedded has just listed it
		}
		for _, s := range slices.Backward(statements(string(text))) {
			if strings.Contains(s.text, "CREATE OR REPLACE FUNCTION "+name) && kind == "function" ||
				strings.Contains(s.text, "CREATE TRIGGER IF NOT EXISTS "+name+" ") && kind == "trigger" {
				return s.text
			}
		}
	}
	return "-- automationctl migrate up"
}

// expected returns the objects that the migrations create.
func expected(lite bool) []object {
	text, err := expectedFiles.ReadFile("expected/" + dir(lite) + ".txt")
	if err != nil {
		panic(err) // it is embedded
	}
	var list []object
	table := ""
	for line := range strings.Lines(string(text)) {
		subject, definition, _ := strings.Cut(strings.TrimSpace(line), ": ")
		o := object{Is: definition}
		o.Kind, o.Name, _ = strings.Cut(subject, " ")
		switch {
		case o.Kind == "table":
			table = o.Name
		case strings.HasPrefix(line, " "):
			o.Table = table
		}
		if o.Kind == "column" {
			for _, word := range []string{" GENERATED ", " DEFAULT "} {
				if i := strings.Index(definition, word); i >= 0 {
					o.Is, o.Default = definition[:i], definition[i:]
				}
			}
		}
		list = append(list, o)
	}
	return list
}

// inventory lists the module's objects in the database, in a fixed order.
func inventory(tx *sqldb.Tx) ([]object, error) {
	query := postgresInventory
	if tx.SQLite() {
		query = sqliteInventory
	}
	var list []object
	err := tx.Select(&list, query)
	for i, o := range list {
		list[i].Is = digest(strings.TrimSpace(o.Is))
	}
	order := []string{"table", "column", "key", "check", "index", "trigger"}
	slices.SortStableFunc(list, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.group(), b.group()), cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

// The catalogues of the databases, read as objects.

const postgresInventory = `
WITH tables AS (
	SELECT oid, relname FROM pg_class WHERE relkind IN ('r', 'p') AND pg_table_is_visible(oid)
		AND (relname LIKE 'automation\_%' OR relname LIKE 'feature\_flag%' OR relname = 'user_automation_settings')
), defaults AS (
	SELECT adrelid, adnum, pg_get_expr(adbin, adrelid) AS is FROM pg_attrdef
), objects AS (
	SELECT 'table' AS kind, '' AS tbl, relname AS name, '' AS def, '' AS dflt FROM tables
UNION ALL
	SELECT 'column', t.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
		CASE WHEN a.attidentity <> '' THEN ' GENERATED ALWAYS AS IDENTITY' ELSE coalesce(' DEFAULT ' || d.is, '') END
	FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN defaults d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL -- whether it is called a constraint or an index, and how, is all the same
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
	-- The path is that of whoever made it.
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
