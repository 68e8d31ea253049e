package schema_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func makePlan(t *testing.T, pool *sqlx.DB) schema.Plan {
	t.Helper()
	p, err := schema.MakePlan(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMakePlan_ReturnsWhatMigrateDoes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		p := makePlan(t, pool)
		if p.Empty() || p.Repair || !slices.Contains(p.Create, "table automation_sessions") || len(p.Adopt)+len(p.Convert) != 0 {
			t.Errorf("plan for an empty database: %+v, want that all objects are created and nothing adopted", p)
		}
		if created := listObjects(t, pool); len(created) != 0 {
			t.Errorf("MakePlan created %q, want nothing", created)
		}
		applied := migrate(t, pool)
		for i := range applied {
			applied[i].AppliedAt = p.Apply[i].AppliedAt
		}
		if diff := cmp.Diff(applied, p.Apply); diff != "" {
			t.Errorf("(-applied +planned)\n%s", diff)
		}
		if p := makePlan(t, pool); !p.Empty() || len(p.Create)+len(p.Adopt)+len(p.Convert) != 0 {
			t.Errorf("plan for a migrated database: %+v, want an empty one", p)
		}
	})
}

func TestMakePlan_ListsTheTablesOfTheHost(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, hostTables)
	p := makePlan(t, pool)
	if diff := cmp.Diff([]string{"feature_flags", "user_automation_settings"}, p.Adopt); diff != "" {
		t.Errorf("Adopt (-want +got)\n%s", diff)
	}
	if len(p.Refuse) != 0 {
		t.Errorf("Refuse is %q, want none", p.Refuse)
	}
	want := []string{"column enabled of feature_flags: boolean becomes boolean NOT NULL", "column enabled_user_ids of feature_flags: text becomes jsonb NOT NULL"}
	if diff := cmp.Diff(want, p.Convert); diff != "" {
		t.Errorf("Convert (-want +got)\n%s", diff)
	}
	for _, o := range []string{"column deleted_at of user_automation_settings", "trigger automation_flag_changed of feature_flags"} {
		if !slices.Contains(p.Create, o) {
			t.Errorf("Create is %q, want it to contain %q", p.Create, o)
		}
	}
}

// The migrations are recorded, but another tool has reverted them, or somebody has
// dropped some of their objects.
func TestMigrate_CreatesMissingObjectsAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("migrates a database for every object of the schema")
	}
	for name, damage := range map[string]func(t *testing.T, pool *sqlx.DB){
		"everything but the record": func(t *testing.T, pool *sqlx.DB) {
			rows := selectRows[struct {
				Version int
				Name    string
			}](t, pool, `SELECT version, name FROM automation_schema_migrations`)
			down(t, pool)
			text := readFiles(t, pool, "up")[0]
			create := text[strings.Index(text, "CREATE TABLE IF NOT EXISTS automation_schema_migrations"):]
			execute(t, pool, create[:strings.Index(create, ";")])
			for _, r := range rows {
				execute(t, pool, strings.NewReplacer("$1", "'"+r.Name+"'", "$2", strings.Repeat("1+", r.Version-1)+"1").
					Replace(`INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES ($2, $1, '2026-01-01 00:00:00.000')`))
			}
		},
		"a table": func(t *testing.T, pool *sqlx.DB) { execute(t, pool, `DROP TABLE automation_jobs`) },
		"an index": func(t *testing.T, pool *sqlx.DB) {
			execute(t, pool, `DROP INDEX automation_sessions_due`)
		},
		"a table that a later migration needs": func(t *testing.T, pool *sqlx.DB) {
			execute(t, pool, `DROP TABLE automation_wallet`, `DELETE FROM automation_schema_migrations WHERE version > 4`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, pool *sqlx.DB) {
				all := len(migrate(t, pool))
				execute(t, pool, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES ('alice', true, 600)`)
				kept := 1
				if name == "everything but the record" {
					kept = 0
				}
				damage(t, pool)
				if applied := migrate(t, pool); len(applied) != all {
					t.Errorf("applied %v, want all migrations again", applied)
				}
				wantProblems(t, pool, "")
				if n := scalar[int](t, pool, `SELECT count(*) FROM user_automation_settings`); n != kept {
					t.Errorf("%d settings, want %d", n, kept)
				}
				if applied := migrate(t, pool); len(applied) != 0 {
					t.Errorf("the Migrate after the repair applied %v, want nothing", applied)
				}
			})
		})
	}
}

// The deployment plan reverts everything by restoring the backup from before the migration.
func TestMigrate_RepairsARestoredBackup(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("pg_restore"); err != nil {
		t.Skip("no pg_restore on PATH")
	}
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	execute(t, pool, hostSettings, `CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text)`,
		`INSERT INTO feature_flags VALUES ('automation', true, '1,2')`)
	before := append(describeTable(t, pool, "feature_flags"), describeTable(t, pool, "user_automation_settings")...)
	dump := t.TempDir() + "/pre_automation_backup.dump"
	if out, err := exec.CommandContext(t.Context(), "pg_dump", "--dbname", dsn, "-Fc", "-f", dump).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "server version mismatch") {
			t.Skip("pg_dump on PATH is older than the server")
		}
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
	migrate(t, pool)
	execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 50, enabled_user_ids = '[3]'`, `UPDATE user_automation_settings SET is_enabled = true`)
	runCommand(t, "pg_restore", "--dbname", dsn, "--clean", "--if-exists", dump)
	if diff := cmp.Diff(before, append(describeTable(t, pool, "feature_flags"), describeTable(t, pool, "user_automation_settings")...)); diff != "" {
		t.Fatalf("the tables after pg_restore (-before +after)\n%s", diff)
	}
	if p := makePlan(t, pool); !p.Repair || len(p.Adopt) != 2 {
		t.Errorf("plan %+v, want both tables adopted again", p)
	}
	if applied := migrate(t, pool); len(applied) == 0 {
		t.Error("Migrate applied nothing after the restore, want all migrations")
	}
	wantProblems(t, pool, "")
	if ids := scalar[string](t, pool, `SELECT enabled_user_ids FROM feature_flags WHERE feature_name = 'automation'`); ids != `["1", "2"]` {
		t.Errorf("enabled_user_ids is %s, want that of the backup", ids)
	}
	down(t, pool)
	if diff := cmp.Diff(before, append(describeTable(t, pool, "feature_flags"), describeTable(t, pool, "user_automation_settings")...)); diff != "" {
		t.Errorf("the restored tables (-before +after)\n%s", diff)
	}
}

// runCommand runs a program that must succeed, and returns what it printed.
func runCommand(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
