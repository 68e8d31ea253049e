package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// ErrNoRole means that the database has no role of that name.
var ErrNoRole = errors.New("no such role")

// Problem is an object that is missing or differs from what the migrations create, or
// a privilege that the service lacks.
type Problem struct {
	Object  string `json:"object"`  // such as "index automation_sessions_due"
	Problem string `json:"problem"` // such as "is missing"
	SQL     string `json:"sql"`     // repairs it, if the owner of the tables runs it
}

func (p Problem) String() string { return p.Object + " " + p.Problem }

// Verify compares the database with what the migrations create: tables, columns,
// keys, checks, indexes, triggers, functions, and the rows that must exist. If
// migrations are missing, it reports only these. On PostgreSQL it also reports
// the privileges that role lacks; "" means the role that is connected.
//
// Verify changes nothing. It ignores additional objects. In a database that is newer
// than this program it also accepts objects with another definition.
func Verify(ctx context.Context, pool *sqlx.DB, role string) ([]Problem, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	list, err := sqldb.Read(ctx, db, "schema.verify", func(tx *sqldb.Tx) ([]Problem, error) { return verify(tx, role) })
	if sqldb.SQLState(err) == "42704" {
		err = fmt.Errorf("%w: %q", ErrNoRole, role)
	}
	if err != nil {
		return nil, fmt.Errorf("schema: verify: %w", err)
	}
	return list, nil
}

func verify(tx *sqldb.Tx, role string) ([]Problem, error) {
	var list []Problem
	have, newer, err := appliedVersions(tx)
	if err != nil {
		return nil, err
	}
	for _, m := range embedded(tx.SQLite()) {
		if !have[m.Version] {
			list = append(list, Problem{fmt.Sprintf("migration %d, %s,", m.Version, m.Name), "has not been applied",
				"-- automationctl migrate up, or run automation/schema/" + m.fileName(tx.SQLite(), "up")})
		}
	}
	if len(list) > 0 { // all other problems would follow from these
		return list, nil
	}
	found, err := inventory(tx)
	if err != nil {
		return nil, err
	}
	kept, err := keptColumns(tx)
	if err != nil {
		return nil, err
	}
	list = append(list, compareObjects(expected(tx.SQLite()), found, kept, newer, tx.SQLite())...)
	rows, err := verifyRows(tx, found)
	if err != nil {
		return nil, err
	}
	list = append(list, rows...)
	if tx.SQLite() {
		return list, nil
	}
	rights, err := verifyRights(tx, role)
	return append(list, rights...), err
}

// appliedVersions returns the versions of the applied migrations, and whether there are
// some that this program does not know. If the role may not read them, which Verify reports
// as a problem, it returns all known versions.
func appliedVersions(tx *sqldb.Tx) (have map[int]bool, newer bool, err error) {
	have = map[int]bool{}
	if !tx.SQLite() {
		var isReadable bool
		if err := tx.Get(&isReadable, `SELECT coalesce(has_table_privilege(to_regclass('automation_schema_migrations'), 'SELECT'), true)`); err != nil {
			return nil, false, err
		}
		if !isReadable {
			for _, m := range embedded(false) {
				have[m.Version] = true
			}
			return have, false, nil
		}
	}
	list, err := readApplied(tx)
	for v := range list {
		have[v] = true
	}
	for _, m := range embedded(tx.SQLite()) {
		delete(list, m.Version)
	}
	return have, len(list) > 0, err
}

const settingsTable = "user_automation_settings"

// keptColumns returns the columns of an adopted table of settings, which keep the
// host's types. If the role may not read which tables were adopted, it returns all
// columns that an adopted table can have.
func keptColumns(tx *sqldb.Tx) (map[string]bool, error) {
	if tx.SQLite() {
		return nil, nil
	}
	columns := []string{"user_id", "is_enabled", "session_duration", "version", "created_at", "updated_at", "deleted_at"}
	var isReadable bool
	if err := tx.Get(&isReadable, `SELECT coalesce(has_table_privilege(to_regclass('automation_adopted_tables'), 'SELECT'), false)`); err != nil {
		return nil, err
	}
	if isReadable {
		columns = nil
		err := tx.Select(&columns, `SELECT key FROM automation_adopted_tables, jsonb_object_keys(was -> 'columns') AS key WHERE table_name = 'user_automation_settings'`)
		if err != nil {
			return nil, err
		}
	}
	kept := map[string]bool{}
	for _, c := range columns {
		kept[c] = true
	}
	return kept, nil
}

// difference is an object that is missing or has another definition.
type difference struct {
	want object
	got  *object // nil: missing
}

// differences compares the objects that the migrations create with those that were
// found. It omits the objects of a missing table, which are created with the table.
func differences(want, found []object, kept map[string]bool) []difference {
	type key struct{ kind, table, name string }
	have := map[key]*object{}
	for _, o := range found {
		have[key{o.Kind, o.Table, o.Name}] = &o
	}
	var list []difference
	for _, o := range want {
		got := have[key{o.Kind, o.Table, o.Name}]
		switch {
		case got == nil && o.Table != "" && have[key{"table", "", o.Table}] == nil:
			// Its table is missing.
		case len(kept) > 0 && o.Table == settingsTable && (o.Kind == "check" || kept[o.Name] && got != nil):
			// An adopted table keeps the host's columns and gets no checks.
		case got == nil || got.Definition != o.Definition && !isCompatible(o, *got):
			list = append(list, difference{o, got})
		}
	}
	return list
}

// compareObjects returns the objects that are missing and, unless the database is newer,
// those with another definition.
func compareObjects(want, found []object, kept map[string]bool, newer, sqlite bool) []Problem {
	var list []Problem
	for _, d := range differences(want, found, kept) {
		switch {
		case d.got == nil && d.want.Kind == "table":
			list = append(list, Problem{d.want.String(), "is missing", "-- automationctl migrate up"})
		case d.got == nil:
			list = append(list, Problem{d.want.String(), "is missing", d.want.createStatement(sqlite)})
		case !newer:
			problem := "has another definition"
			if !strings.HasPrefix(d.want.Definition, digestPrefix) {
				problem += ": " + d.got.Definition + " instead of " + d.want.Definition
			}
			list = append(list, Problem{d.want.String(), problem, remedy(d.want, *d.got, sqlite)})
		}
	}
	return list
}

// spelling removes the casts and parentheses that PostgreSQL adds to a check or an index
// because of the type of a host's column.
var spelling = strings.NewReplacer("::text", "", "(", "", ")", "")

// isCompatible reports whether an object with another definition works as well. In an
// adopted table a column may be a longer integer or a text of limited length, and checks
// and indexes on it are spelled differently.
func isCompatible(want, got object) bool {
	switch want.Kind {
	case "check", "index":
		return spelling.Replace(want.Definition) == spelling.Replace(got.Definition)
	case "column":
		kind, _, hasLength := strings.Cut(got.Definition, "(")
		if _, rest, ok := strings.Cut(got.Definition, ")"); hasLength && ok {
			kind += rest
		}
		return strings.NewReplacer("character varying", "text", "bigint", "integer").Replace(kind) == want.Definition
	}
	return false
}

// remedy returns the SQL that turns an object into the one that the migrations create.
func remedy(want, got object, sqlite bool) string {
	switch want.Kind {
	case "column":
		kind, isNotNull := strings.CutSuffix(want.Definition, " NOT NULL")
		if got.Definition == kind && isNotNull {
			return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL;", want.Table, want.Name)
		}
		return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s;", want.Table, want.Name, kind)
	case "check":
		return fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s; %s", want.Table, want.Name, want.createStatement(sqlite))
	case "index":
		return fmt.Sprintf("DROP INDEX %s; %s", want.Name, want.createStatement(sqlite))
	case "trigger":
		return fmt.Sprintf("DROP TRIGGER %s ON %s; %s", want.Name, want.Table, want.createStatement(sqlite))
	}
	return want.createStatement(sqlite)
}

// requiredRows are the rows that must exist.
var requiredRows = []struct{ table, where, insert string }{
	{"automation_wallet", "name = 'wallet'", "INSERT INTO automation_wallet (name, alone_until) VALUES ('wallet', '1970-01-01 00:00:00.000')"},
	{"feature_flags", "feature_name = 'automation'", "INSERT INTO feature_flags (feature_name, enabled) VALUES ('automation', true)"},
}

func verifyRows(tx *sqldb.Tx, found []object) ([]Problem, error) {
	var list []Problem
	for _, r := range requiredRows {
		if !hasObject(found, "table", r.table) {
			continue
		}
		if !tx.SQLite() {
			var isReadable bool
			if err := tx.Get(&isReadable, `SELECT has_table_privilege($1, 'SELECT')`, r.table); err != nil {
				return nil, err
			}
			if !isReadable {
				continue
			}
		}
		var n int
		if err := tx.Get(&n, `SELECT count(*) FROM `+r.table+` WHERE `+r.where); err != nil {
			return nil, err
		}
		if n == 0 {
			list = append(list, Problem{"row " + r.where + " of " + r.table, "is missing", r.insert + ";"})
		}
	}
	return list, nil
}
