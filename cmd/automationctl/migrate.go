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
	cmd := &cobra.Command{Use: "migrate", Short: "Create the tables in the database, or remove them", Args: noSuchCommand, RunE: showHelp}
	cmd.AddCommand(a.migrateUp(), a.migrateDown(), a.migrateStatus(), a.migrateSQL())
	return cmd
}

func (a *app) migrateUp() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "up", Short: "Apply the missing migrations", Args: cobra.NoArgs,
		Long: `Up applies the missing migrations, each in a transaction of its own. It can be
run at any time, by several processes at once, and again after an interruption.
If all migrations are recorded but some of their objects are missing, because
another tool has reverted them or a backup was restored, it applies all of them
again, which changes no object that exists.

If the tables feature_flags and user_automation_settings already exist, it
adopts them with their data. If a table cannot be adopted, it changes nothing
and names the table, the row and the remedy; --dry-run does the same. No user
has the feature until you change the flag.`,
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
				a.printf("All migrations were applied again, because these objects were missing: %s.", strings.Join(plan.Create, ", "))
			}
			return a.printMigrations("No migration was missing.", "Applied", list)
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be created, adopted, converted and refused")
	return cmd
}

func (a *app) migrateDown() *cobra.Command {
	var steps int
	var confirmed bool
	cmd := &cobra.Command{
		Use: "down", Short: "Revert migrations and delete the data in their tables", Args: cobra.NoArgs,
		Long: `Down reverts the newest migrations and DELETES the rows of their tables. Without
--yes it only shows how many rows of which tables. Adopted tables are kept and
get their original form back. Dump the tables first:

  pg_dump "$DATABASE_URL" -Fc -t 'automation_*' -t 'feature_flag*' -t user_automation_settings -f automation.dump

To take the feature away from users, switch the flag off instead:

  automationctl flags set automation --enabled=false`,
		Example: "  automationctl migrate down --steps 1 --yes",
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			if steps < 1 {
				return usagef("--steps is %d, expected 1 or more", steps)
			}
			if !confirmed {
				return a.refuseDown(cmd, db, steps)
			}
			_, lost, err := a.findLosses(cmd.Context(), db, steps)
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
			return a.printMigrations("No migration was applied.", "Reverted", list)
		}),
	}
	cmd.Flags().IntVar(&steps, "steps", 1, "how many migrations to revert")
	cmd.Flags().BoolVar(&confirmed, "yes", false, "revert them and delete the data")
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
		_, _ = fmt.Fprintln(w, "No migration is missing.")
		return
	}
	for _, m := range p.Apply {
		_, _ = fmt.Fprintf(w, "apply migration %d, %s\n", m.Version, m.Name)
	}
	if p.Repair {
		_, _ = fmt.Fprintln(w, "apply all migrations again, because objects are missing")
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

// printMigrations prints what was done with each migration, or empty if there are none.
func (a *app) printMigrations(empty, verb string, list []schema.Migration) error {
	if list == nil {
		list = []schema.Migration{}
	}
	return a.print(list, func(w io.Writer) {
		if len(list) == 0 {
			_, _ = fmt.Fprintln(w, empty)
		}
		for _, m := range list {
			_, _ = fmt.Fprintf(w, "%s %d, %s.\n", verb, m.Version, m.Name)
		}
	})
}

// refuseDown returns an error that says what down would revert and delete.
func (a *app) refuseDown(cmd *cobra.Command, db *sqlx.DB, steps int) error {
	names, lost, err := a.findLosses(cmd.Context(), db, steps)
	switch {
	case err != nil:
		return err
	case len(names) == 0:
		return a.printMigrations("No migration was applied.", "", nil)
	case lost == "":
		lost = "no rows"
	}
	return usagef("this would revert %s and delete %s; dump the tables first, then repeat it with --yes", strings.Join(names, ", "), lost)
}

// dropTable and createTable match the tables that a down migration drops and creates.
var (
	dropTable   = regexp.MustCompile(`(?m)^\s*DROP TABLE (?:IF EXISTS )?(\w+)`)
	createTable = regexp.MustCompile(`(?m)^\s*CREATE TABLE (?:IF NOT EXISTS )?(\w+)`)
)

// lostTables returns the tables that the text of a down migration drops. A table that
// the text also creates is a temporary copy, or gets its rows back.
func lostTables(down string) (tables []string) {
	var kept []string
	for _, match := range createTable.FindAllStringSubmatch(down, -1) {
		kept = append(kept, match[1])
	}
	for _, match := range dropTable.FindAllStringSubmatch(down, -1) {
		if !slices.Contains(kept, match[1]) {
			tables = append(tables, match[1])
		}
	}
	return tables
}

// findLosses returns the names of the newest applied migrations, and a text with the rows
// that reverting them would delete. Adopted tables are kept.
func (a *app) findLosses(ctx context.Context, db *sqlx.DB, steps int) (names []string, lost string, err error) {
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
			continue // a migration of a newer program, for which Down returns an error
		}
		tables = append(tables, lostTables(string(down))...)
	}
	var parts []string
	for _, table := range tables {
		n, err := countRows(ctx, db, table)
		if err != nil {
			return nil, "", err
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s rows of %s", formatCount(n), table))
		}
	}
	return names, strings.Join(parts, ", "), nil
}

// countRows counts the rows of a table. It returns 0 for the host's tables, and for the
// tables that only the migrations use.
func countRows(ctx context.Context, db *sqlx.DB, table string) (n int64, err error) {
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
