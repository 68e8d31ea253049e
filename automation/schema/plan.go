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

// Plan is what [Migrate] would do.
type Plan struct {
	Apply  []Migration `json:"apply"`  // migrations that are not applied
	Create []string    `json:"create"` // objects that are missing, such as "table automation_sessions"
	// Repair reports whether objects of applied migrations are missing, so that
	// all migrations are applied again.
	Repair bool `json:"repair"`
	// Adopt has the host's tables that are there already, and Convert the
	// columns of theirs that change their type.
	Adopt   []string `json:"adopt"`
	Convert []string `json:"convert"`
	// Refuse has what cannot be adopted: the table, the first such row and the
	// remedy, or why that could not be examined. Migrate would fail by it.
	Refuse []string `json:"refuse"`
}

// Empty reports whether Migrate has nothing to do.
func (p Plan) Empty() bool { return len(p.Apply) == 0 && !p.Repair }

// MakePlan reports what [Migrate] would do. It changes nothing and locks
// nothing; of tables that would be adopted it reads all rows.
func MakePlan(ctx context.Context, pool *sqlx.DB) (Plan, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	p, err := sqldb.Read(ctx, db, "schema.plan", makePlan)
	if err == nil && !db.SQLite() && (p.Repair || slices.ContainsFunc(p.Apply, func(m Migration) bool { return m.Version == 1 })) {
		p.Refuse, err = refusals(ctx, db)
	}
	if err != nil {
		return Plan{}, fmt.Errorf("schema: plan: %w", hint(ctx, db, err))
	}
	return p, nil
}

func makePlan(tx *sqldb.Tx) (Plan, error) {
	p := Plan{Apply: []Migration{}, Create: []string{}, Adopt: []string{}, Convert: []string{}, Refuse: []string{}}
	have, err := readApplied(tx)
	if err != nil {
		return p, err
	}
	ours := embedded(tx.SQLite())
	for _, m := range ours {
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
	newer := len(have)+len(p.Apply) > len(ours)
	diffs := differences(expected(tx.SQLite()), found, kept)
	for _, d := range diffs {
		if d.got == nil {
			p.Create = append(p.Create, d.want.String())
		}
	}
	p.Repair = len(p.Apply) == 0 && len(p.Create) > 0 && !newer
	// A column that only we have tells the host's table from one of ours.
	for table, ours := range map[string]string{"feature_flags": "disabled_user_ids", settingsTable: "deleted_at"} {
		isMissing := slices.ContainsFunc(diffs, func(d difference) bool { return d.got == nil && d.want.Table == table && d.want.Name == ours })
		if isMissing || has(found, "table", table) && slices.ContainsFunc(p.Apply, func(m Migration) bool { return m.Version == 1 }) {
			p.Adopt = append(p.Adopt, table)
		}
	}
	slices.Sort(p.Adopt)
	for _, d := range diffs {
		if d.got != nil && d.want.Kind == "column" && slices.Contains(p.Adopt, d.want.Table) {
			p.Convert = append(p.Convert, fmt.Sprintf("%s: %s becomes %s", d.want, d.got.Is, d.want.Is))
		}
	}
	return p, nil
}

// The statements of the first migration by which it refuses tables of the host,
// and the functions that these need.
var (
	refusesOf = regexp.MustCompile(`refused_of CONSTANT text := '(\w+)'`)
	helper    = regexp.MustCompile(`^CREATE OR REPLACE FUNCTION (automation_valid_ids|automation_parse_ids)\(`)
)

// errTakenBack ends a transaction whose work is not to stay.
var errTakenBack = errors.New("taken back")

// refusals executes what the first migration checks of the host's tables. The
// functions for it are temporary, and taken back.
func refusals(ctx context.Context, db *sqldb.DB) ([]string, error) {
	text, err := files.ReadFile(embedded(false)[0].file(false, "up"))
	if err != nil {
		return nil, err
	}
	var helpers []string
	list := []string{}
	for _, s := range statements(string(text)) {
		query := strings.NewReplacer("automation_valid_ids(", "pg_temp.automation_valid_ids(", "automation_parse_ids(", "pg_temp.automation_parse_ids(").Replace(s.text)
		m := refusesOf.FindStringSubmatch(query)
		switch {
		case helper.MatchString(s.text):
			helpers = append(helpers, query)
			continue
		case m == nil:
			continue
		}
		_, err := sqldb.Write(ctx, db, "schema.refusals", func(tx *sqldb.Tx) (struct{}, error) {
			var isThere bool
			if err := tx.Get(&isThere, `SELECT to_regclass($1) IS NOT NULL`, m[1]); err != nil || !isThere {
				return struct{}{}, cmp.Or(err, errTakenBack)
			}
			for _, q := range append(slices.Clone(helpers), query) {
				if err := tx.Script(q); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, errTakenBack
		})
		switch {
		case errors.Is(err, errTakenBack):
		case sqldb.SQLState(err) == "": // the database's absence is no refusal
			return nil, err
		case sqldb.Hint(err) == "":
			list = append(list, fmt.Sprintf("%s was not examined: %v", m[1], hint(ctx, db, err)))
		default:
			list = append(list, hint(ctx, db, err).Error())
		}
	}
	return list, nil
}

func has(list []object, kind, name string) bool {
	return slices.ContainsFunc(list, func(o object) bool { return o.Kind == kind && o.Name == name })
}

// repair applies all migrations again if objects of theirs are missing, such as
// after another tool took them back or a backup was restored. Each file may run
// twice, and all of them in order leave the newest form of everything. With force
// it does so in any case.
func repair(ctx context.Context, db *sqldb.DB, force bool) ([]Migration, error) {
	// First without a lock, because it is needed at hardly any start.
	p, err := sqldb.Read(ctx, db, "schema.plan", makePlan)
	if err != nil || !p.Repair && !force {
		return nil, err
	}
	var list []Migration
	did, err := step(ctx, db, "schema.repair", func(tx *sqldb.Tx, _ map[int]Migration) (bool, error) {
		list = nil
		if p, err := makePlan(tx); err != nil || !p.Repair && !force {
			return false, err
		}
		for _, m := range embedded(tx.SQLite()) {
			if err := run(tx, m, "up"); err != nil {
				return false, err
			}
		}
		have, err := readApplied(tx)
		for _, m := range embedded(tx.SQLite()) {
			list = append(list, have[m.Version])
		}
		return true, err
	})
	vital := slices.ContainsFunc(p.Create, func(s string) bool { return strings.HasPrefix(s, "table ") || strings.HasPrefix(s, "column ") })
	if sqldb.SQLState(err) == "42501" && !vital {
		return nil, nil // the service runs without an index; Verify tells the owner
	}
	if !did {
		list = nil
	}
	return list, err
}
