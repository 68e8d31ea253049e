package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// ErrNoRole says that the database has no role of that name.
var ErrNoRole = errors.New("no such role")

// Problem is something that is not as the migrations make it, or a right that
// the service lacks.
type Problem struct {
	Object  string `json:"object"`  // such as "index automation_sessions_due"
	Problem string `json:"problem"` // such as "is missing"
	SQL     string `json:"sql"`     // what the owner of the tables runs to repair it
}

func (p Problem) String() string { return p.Object + " " + p.Problem }

// Verify compares the database with what the migrations create: tables, columns,
// keys, checks, indexes, triggers, functions, and the rows that must exist. While
// a migration is missing, it reports only that. On PostgreSQL it also reports
// which rights role lacks; "" means the role that is connected.
//
// Verify changes nothing. It ignores additional objects, and in a database newer
// than this program it accepts objects that exist in another form.
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
	have, newer, err := versions(tx)
	if err != nil {
		return nil, err
	}
	for _, m := range embedded(tx.SQLite()) {
		if !have[m.Version] {
			list = append(list, Problem{fmt.Sprintf("migration %d, %s,", m.Version, m.Name), "has not been applied",
				"-- automationctl migrate up, or run automation/schema/" + m.file(tx.SQLite(), "up")})
		}
	}
	if len(list) > 0 { // all else follows from that
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
	list = append(list, compare(expected(tx.SQLite()), found, kept, newer, tx.SQLite())...)
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

// versions returns what has been applied, and whether that is more than we know.
// The rights to read it are among those that are verified, so they may lack.
func versions(tx *sqldb.Tx) (have map[int]bool, newer bool, err error) {
	have = map[int]bool{}
	if !tx.SQLite() {
		var may bool
		if err := tx.Get(&may, `SELECT coalesce(has_table_privilege(to_regclass('automation_schema_migrations'), 'SELECT'), true)`); err != nil {
			return nil, false, err
		}
		if !may {
			for _, m := range embedded(false) {
				have[m.Version] = true // what is missing tells it
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

// keptColumns returns the columns of an adopted table of settings, which keep
// the host's types. A role that may not read which tables were adopted gets
// all that an adopted table may have.
func keptColumns(tx *sqldb.Tx) (map[string]bool, error) {
	if tx.SQLite() {
		return nil, nil
	}
	columns := []string{"user_id", "is_enabled", "session_duration", "version", "created_at", "updated_at", "deleted_at"}
	var readable bool
	if err := tx.Get(&readable, `SELECT coalesce(has_table_privilege(to_regclass('automation_adopted_tables'), 'SELECT'), false)`); err != nil {
		return nil, err
	}
	if readable {
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

// difference is an object that is missing, or that another one has the place of.
type difference struct {
	want object
	got  *object // nil: missing
}

// differences compares what the migrations create with what there is. What
// belongs to a missing table is left out.
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
			// It comes with its table.
		case len(kept) > 0 && o.Table == settingsTable && (o.Kind == "check" || kept[o.Name] && got != nil):
			// The host's columns are as the host wants them.
		case got == nil || got.Is != o.Is && !alike(o, *got):
			list = append(list, difference{o, got})
		}
	}
	return list
}

// compare returns what is missing or, unless the database is newer, different.
func compare(want, found []object, kept map[string]bool, newer, lite bool) []Problem {
	var list []Problem
	for _, d := range differences(want, found, kept) {
		switch {
		case d.got == nil && d.want.Kind == "table":
			list = append(list, Problem{d.want.String(), "is missing", "-- automationctl migrate up"})
		case d.got == nil:
			list = append(list, Problem{d.want.String(), "is missing", d.want.create(lite)})
		case !newer:
			what := "is not as it should be"
			if !strings.HasPrefix(d.want.Is, digestPrefix) {
				what += ": " + d.got.Is + " instead of " + d.want.Is
			}
			list = append(list, Problem{d.want.String(), what, remedy(d.want, *d.got, lite)})
		}
	}
	return list
}

// bare removes from a check or an index what the type of a host's column adds.
var bare = strings.NewReplacer("::text", "", "(", "", ")", "")

// alike reports whether what differs does as well: a column that the host
// brought along as a longer integer or a shorter text, and a check on it.
func alike(want, got object) bool {
	switch want.Kind {
	case "check", "index":
		return bare.Replace(want.Is) == bare.Replace(got.Is)
	case "column":
		kind, _, sized := strings.Cut(got.Is, "(")
		if _, rest, ok := strings.Cut(got.Is, ")"); sized && ok {
			kind += rest
		}
		return strings.NewReplacer("character varying", "text", "bigint", "integer").Replace(kind) == want.Is
	}
	return false
}

// remedy is what turns an object into what it should be.
func remedy(want, got object, lite bool) string {
	switch want.Kind {
	case "column":
		kind, null := strings.CutSuffix(want.Is, " NOT NULL")
		if got.Is == kind && null {
			return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL;", want.Table, want.Name)
		}
		return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s;", want.Table, want.Name, kind)
	case "check":
		return fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s; %s", want.Table, want.Name, want.create(lite))
	case "index":
		return fmt.Sprintf("DROP INDEX %s; %s", want.Name, want.create(lite))
	case "trigger":
		return fmt.Sprintf("DROP TRIGGER %s ON %s; %s", want.Name, want.Table, want.create(lite))
	}
	return want.create(lite)
}

// The rows that must be there.
var rows = []struct{ table, where, insert string }{
	{"automation_wallet", "name = 'wallet'", "INSERT INTO automation_wallet (name, alone_until) VALUES ('wallet', '1970-01-01 00:00:00.000')"},
	{"feature_flags", "feature_name = 'automation'", "INSERT INTO feature_flags (feature_name, enabled) VALUES ('automation', true)"},
}

func verifyRows(tx *sqldb.Tx, found []object) ([]Problem, error) {
	var list []Problem
	for _, r := range rows {
		if !has(found, "table", r.table) {
			continue
		}
		if !tx.SQLite() {
			var may bool
			if err := tx.Get(&may, `SELECT has_table_privilege($1, 'SELECT')`, r.table); err != nil {
				return nil, err
			}
			if !may {
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
