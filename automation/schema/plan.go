package schema

import (
	"context"
	"fmt"
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
}

// Empty reports whether Migrate has nothing to do.
func (p Plan) Empty() bool { return len(p.Apply) == 0 && !p.Repair }

// MakePlan reports what [Migrate] would do. It changes nothing and locks
// nothing. Whether the rows of a host's table can be adopted shows only when
// Migrate does it; a refusal changes nothing either.
func MakePlan(ctx context.Context, pool *sqlx.DB) (Plan, error) {
	db := sqldb.New(pool, sqldb.Options{})
	p, err := sqldb.Read(ctx, db, "schema.plan", makePlan)
	if err != nil {
		return Plan{}, fmt.Errorf("schema: plan: %w", hint(ctx, db, err))
	}
	return p, nil
}

func makePlan(tx *sqldb.Tx) (Plan, error) {
	p := Plan{Apply: []Migration{}, Create: []string{}, Adopt: []string{}, Convert: []string{}}
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
