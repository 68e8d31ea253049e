package schema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Plan describes what [Migrate] would do.
type Plan struct {
	Apply  []Migration `json:"apply"`  // migrations that are not applied
	Create []string    `json:"create"` // objects that are missing, such as "table automation_sessions"
	// Repair is true if objects of applied migrations are missing, so that all
	// migrations are applied again.
	Repair bool `json:"repair"`
	// Adopt lists the host's tables that Migrate adopts, and Convert their columns
	// that change their type.
	Adopt   []string `json:"adopt"`
	Convert []string `json:"convert"`
	// Refuse lists why Migrate would fail on tables that it cannot adopt: the table, the
	// first such row and the remedy, or why the table could not be examined.
	Refuse []string `json:"refuse"`
}

// Empty reports whether Migrate has nothing to do.
func (p Plan) Empty() bool { return len(p.Apply) == 0 && !p.Repair }

// MakePlan returns what [Migrate] would do. It changes and locks nothing. It reads all
// rows of the tables that would be adopted.
func MakePlan(ctx context.Context, pool *sqlx.DB) (Plan, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	p, err := sqldb.Read(ctx, db, "schema.plan", makePlan)
	if err == nil && !db.SQLite() && (p.Repair || p.appliesFirst()) {
		p.Refuse, err = checkHostTables(ctx, db)
	}
	if err != nil {
		return Plan{}, fmt.Errorf("schema: plan: %w", hint(ctx, db, err))
	}
	return p, nil
}

// appliesFirst reports whether the first migration, which adopts tables, is not applied.
func (p Plan) appliesFirst() bool {
	return slices.ContainsFunc(p.Apply, func(m Migration) bool { return m.Version == 1 })
}

func makePlan(tx *sqldb.Tx) (Plan, error) {
	p := Plan{Apply: []Migration{}, Create: []string{}, Adopt: []string{}, Convert: []string{}, Refuse: []string{}}
	have, err := readApplied(tx)
	if err != nil {
		return p, err
	}
	known := embedded(tx.SQLite())
	for _, m := range known {
		if _, ok := have[m.Version]; !ok {
			p.Apply = append(p.Apply, m)
		}
	}
	found, err := inventory(tx)
	if err != nil {
		return p, err
	}
	kept, err := keptColumns(tx)
	if err != nil {
		return p, err
	}
	newer := len(have)+len(p.Apply) > len(known)
	diffs := differences(expected(tx.SQLite()), found, kept)
	for _, d := range diffs {
		if d.got == nil {
			p.Create = append(p.Create, d.want.String())
		}
	}
	p.Repair = len(p.Apply) == 0 && len(p.Create) > 0 && !newer
	// A table of the host lacks a column that only the module's table has.
	for table, column := range map[string]string{"feature_flags": "disabled_user_ids", settingsTable: "deleted_at"} {
		lacksColumn := slices.ContainsFunc(diffs, func(d difference) bool { return d.got == nil && d.want.Table == table && d.want.Name == column })
		isBeforeFirst := p.appliesFirst() && hasObject(found, "table", table)
		if lacksColumn || isBeforeFirst {
			p.Adopt = append(p.Adopt, table)
		}
	}
	slices.Sort(p.Adopt)
	for _, d := range diffs {
		if d.got != nil && d.want.Kind == "column" && slices.Contains(p.Adopt, d.want.Table) {
			p.Convert = append(p.Convert, fmt.Sprintf("%s: %s becomes %s", d.want, d.got.Definition, d.want.Definition))
		}
	}
	return p, nil
}

// These match the statements of the first migration that reject tables of the host,
// and the functions that those statements need.
var (
	refusedTable   = regexp.MustCompile(`refused_of CONSTANT text := '(\w+)'`)
	helperFunction = regexp.MustCompile(`^CREATE OR REPLACE FUNCTION (automation_valid_ids|automation_parse_ids)\(`)
)

// errRollback makes sqldb.Write roll back a transaction that succeeded.
var errRollback = errors.New("rolled back on purpose")

// checkHostTables runs the first migration's checks of the host's tables and returns why
// it would reject them. It creates the functions that the checks need as temporary ones,
// and rolls everything back.
func checkHostTables(ctx context.Context, db *sqldb.DB) ([]string, error) {
	text, err := files.ReadFile(embedded(false)[0].fileName(false, "up"))
	if err != nil {
		return nil, err
	}
	var helpers []string
	list := []string{}
	for _, s := range splitStatements(string(text)) {
		query := strings.NewReplacer("automation_valid_ids(", "pg_temp.automation_valid_ids(", "automation_parse_ids(", "pg_temp.automation_parse_ids(").Replace(s.text)
		m := refusedTable.FindStringSubmatch(query)
		switch {
		case helperFunction.MatchString(s.text):
			helpers = append(helpers, query)
			continue
		case m == nil:
			continue
		}
		_, err := sqldb.Write(ctx, db, "schema.refusals", func(tx *sqldb.Tx) (struct{}, error) {
			var exists bool
			if err := tx.Get(&exists, `SELECT to_regclass($1) IS NOT NULL`, m[1]); err != nil || !exists {
				return struct{}{}, cmp.Or(err, errRollback)
			}
			for _, q := range append(slices.Clone(helpers), query) {
				if err := tx.Script(q); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, errRollback
		})
		switch {
		case errors.Is(err, errRollback):
		case sqldb.SQLState(err) == "": // not a rejection by a statement but, for example, a lost connection
			return nil, err
		case sqldb.Hint(err) == "":
			list = append(list, fmt.Sprintf("%s could not be examined: %v", m[1], hint(ctx, db, err)))
		default:
			list = append(list, hint(ctx, db, err).Error())
		}
	}
	return list, nil
}

func hasObject(list []object, kind, name string) bool {
	return slices.ContainsFunc(list, func(o object) bool { return o.Kind == kind && o.Name == name })
}

// repair applies all migrations again if some of their objects are missing, or if force
// is true. Every file may run again, and all files in order produce the newest form of
// each object.
func repair(ctx context.Context, db *sqldb.DB, force bool) ([]Migration, error) {
	// The first check needs no lock, and usually nothing has to be repaired.
	p, err := sqldb.Read(ctx, db, "schema.plan", makePlan)
	if err != nil || !p.Repair && !force {
		return nil, err
	}
	var list []Migration
	changed, err := runStep(ctx, db, "schema.repair", func(tx *sqldb.Tx, _ map[int]Migration) (bool, error) {
		list = nil
		if p, err := makePlan(tx); err != nil || !p.Repair && !force {
			return false, err
		}
		for _, m := range embedded(tx.SQLite()) {
			if err := runFile(tx, m, "up"); err != nil {
				return false, err
			}
		}
		have, err := readApplied(tx)
		for _, m := range embedded(tx.SQLite()) {
			list = append(list, have[m.Version])
		}
		return true, err
	})
	lacksData := slices.ContainsFunc(p.Create, func(s string) bool { return strings.HasPrefix(s, "table ") || strings.HasPrefix(s, "column ") })
	if sqldb.SQLState(err) == "42501" && !lacksData {
		return nil, nil // without privileges; the service works, for example, without an index, which Verify reports
	}
	if !changed {
		list = nil
	}
	return list, err
}
