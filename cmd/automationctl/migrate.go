package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

func (a *app) migrate() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the tables into the database, and out again", Args: noSuchCommand, RunE: showHelp}
	cmd.AddCommand(a.migrateUp(), a.migrateDown(), a.migrateStatus(), a.migrateSQL())
	return cmd
}

func (a *app) migrateUp() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "up", Short: "Apply the migrations that are missing", Args: cobra.NoArgs,
		Long: `Up applies the migrations that are missing, each in a transaction of its own.
It can be run at any time, by many at once, and again after whatever cut it
short. Where all are recorded but objects are gone, as after another tool's way
back or a restored backup, it applies all of them again, which changes nothing
that exists. Tables feature_flags and user_automation_settings that are there
already are adopted with their data; what cannot be adopted is refused by table,
row and remedy, by --dry-run as well, and nothing is changed then. Nobody is in
the rollout until you say so.`,
		Example: `  automationctl migrate up --dry-run
  automationctl migrate up`,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			plan, err := schema.MakePlan(cmd.Context(), db)
			if err != nil {
				return err
			}
			if dryRun {
				err := a.print(plan, func(w io.Writer) { writePlan(w, plan) })
				if err == nil && len(plan.Refuse) > 0 {
					err = errFindings
				}
				return err
			}
			list, err := schema.Migrate(cmd.Context(), db)
			if err != nil {
				return err
			}
			if plan.Repair && len(list) > 0 {
				a.printf("Applied again, because these were missing: %s.", strings.Join(plan.Create, ", "))
			}
			return a.migrations("Nothing was missing.", "Applied", list)
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be created, adopted, converted and refused")
	return cmd
}

func (a *app) migrateDown() *cobra.Command {
	var steps int
	var sure bool
	cmd := &cobra.Command{
		Use: "down", Short: "Take migrations back, with the data in their tables", Args: cobra.NoArgs,
		Long: `Down takes the newest migrations back, and DELETES what their tables hold;
without --yes it only says how many rows of which. Tables that were adopted
stay, as they were before. Dump the tables first:

  pg_dump "$DATABASE_URL" -Fc -t 'automation_*' -t 'feature_flag*' -t user_automation_settings -f automation.dump

To take the feature back from users, switch the flag off instead:

  automationctl flags set automation --enabled=false`,
		Example: "  automationctl migrate down --steps 1 --yes",
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			if steps < 1 {
				return usagef("--steps is %d, expected 1 or more", steps)
			}
			if !sure {
				return a.refuseDown(cmd, db, steps)
			}
			_, lost, err := a.losses(cmd.Context(), db, steps)
			if err != nil {
				return err
			}
			list, err := schema.Down(cmd.Context(), db, steps)
			if err != nil {
				return err
			}
			if lost != "" {
				a.printf("Deleted %s.", lost)
			}
			return a.migrations("Nothing was applied.", "Took back", list)
		}),
	}
	cmd.Flags().IntVar(&steps, "steps", 1, "how many migrations to take back")
	cmd.Flags().BoolVar(&sure, "yes", false, "delete the data; without it nothing is done")
	return cmd
}

func (a *app) migrateStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show which migrations are applied", Args: cobra.NoArgs,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			list, err := schema.Status(cmd.Context(), db)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				row(w, "VERSION", "NAME", "APPLIED")
				for _, m := range list {
					row(w, m.Version, m.Name, formatTime(m.AppliedAt))
				}
			})
		}),
	}
}

// writePlan writes what migrate up would do.
func writePlan(w io.Writer, p schema.Plan) {
	if p.Empty() {
		_, _ = fmt.Fprintln(w, "Nothing is missing.")
		return
	}
	for _, m := range p.Apply {
		_, _ = fmt.Fprintf(w, "apply migration %d, %s\n", m.Version, m.Name)
	}
	if p.Repair {
		_, _ = fmt.Fprintln(w, "apply all migrations again, because something is missing")
	}
	for _, list := range []struct {
		verb  string
		items []string
	}{{"refuse:", p.Refuse}, {"adopt table", p.Adopt}, {"convert", p.Convert}, {"create", p.Create}} {
		for _, item := range list.items {
			_, _ = fmt.Fprintln(w, list.verb, item)
		}
	}
}

// migrations prints what was done.
func (a *app) migrations(none, did string, list []schema.Migration) error {
	if list == nil {
		list = []schema.Migration{}
	}
	return a.print(list, func(w io.Writer) {
		if len(list) == 0 {
			_, _ = fmt.Fprintln(w, none)
		}
		for _, m := range list {
			_, _ = fmt.Fprintf(w, "%s %d, %s.\n", did, m.Version, m.Name)
		}
	})
}

// refuseDown names what down would take back and delete, and refuses.
func (a *app) refuseDown(cmd *cobra.Command, db *sqlx.DB, steps int) error {
	names, lost, err := a.losses(cmd.Context(), db, steps)
	switch {
	case err != nil:
		return err
	case len(names) == 0:
		return a.migrations("Nothing was applied.", "", nil)
	case lost == "":
		lost = "no row"
	}
	return usagef("this would take back %s and delete %s; dump the tables first, then repeat it with --yes", strings.Join(names, ", "), lost)
}

// dropped and created find the tables that a way back drops, and makes.
var (
	dropped = regexp.MustCompile(`(?m)^\s*DROP TABLE (?:IF EXISTS )?(\w+)`)
	created = regexp.MustCompile(`(?m)^\s*CREATE TABLE (?:IF NOT EXISTS )?(\w+)`)
)

// lostTables returns the tables that a way back drops for good. One that it makes
// as well is a copy of its own, or has been given its rows again.
func lostTables(down string) (tables []string) {
	var kept []string
	for _, found := range created.FindAllStringSubmatch(down, -1) {
		kept = append(kept, found[1])
	}
	for _, found := range dropped.FindAllStringSubmatch(down, -1) {
		if !slices.Contains(kept, found[1]) {
			tables = append(tables, found[1])
		}
	}
	return tables
}

// losses returns the newest migrations that are applied, and how many rows of
// which tables go with them. An adopted table stays.
func (a *app) losses(ctx context.Context, db *sqlx.DB, steps int) (names []string, lost string, err error) {
	list, err := schema.Status(ctx, db)
	if err != nil {
		return nil, "", err
	}
	var tables []string
	for _, m := range slices.Backward(list) {
		if m.AppliedAt.IsZero() || len(names) == steps {
			continue
		}
		names = append(names, fmt.Sprintf("%d (%s)", m.Version, m.Name))
		database := map[bool]string{true: "sqlite", false: "postgres"}[db.DriverName() == "sqlite"]
		down, err := fs.ReadFile(schema.Files(), fmt.Sprintf("%s/%04d_%s.down.sql", database, m.Version, m.Name))
		if err != nil {
			continue // of a newer program, which Down refuses
		}
		tables = append(tables, lostTables(string(down))...)
	}
	var parts []string
	for _, table := range tables {
		n, err := countLost(ctx, db, table)
		if err != nil {
			return nil, "", err
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s rows of %s", formatCount(n), table))
		}
	}
	return names, strings.Join(parts, ", "), nil
}

// countLost counts a table's rows, none of one that is the host's or only keeps
// the migrations' own accounts.
func countLost(ctx context.Context, db *sqlx.DB, table string) (n int64, err error) {
	switch table {
	case "automation_schema_migrations", "automation_adopted_tables":
		return 0, nil
	case "feature_flags", "user_automation_settings":
		if db.DriverName() == "sqlite" {
			break
		}
		var isHosts bool
		err := db.GetContext(ctx, &isHosts, `SELECT EXISTS (SELECT FROM automation_adopted_tables WHERE table_name = $1 AND was IS NOT NULL)`, table)
		if err != nil || isHosts {
			return 0, err
		}
	}
	return n, db.GetContext(ctx, &n, `SELECT count(*) FROM `+table)
}
