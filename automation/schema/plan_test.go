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

func plan(t *testing.T, pool *sqlx.DB) schema.Plan {
	t.Helper()
	p, err := schema.MakePlan(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMakePlan_SaysWhatMigrateDoes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		p := plan(t, pool)
		if p.Empty() || p.Repair || !slices.Contains(p.Create, "table automation_sessions") || len(p.Adopt)+len(p.Convert) != 0 {
			t.Errorf("plan for an empty database: %+v", p)
		}
		if left := objects(t, pool); len(left) != 0 {
			t.Errorf("the plan created %q", left)
		}
		applied := migrate(t, pool)
		for i := range applied {
			applied[i].AppliedAt = p.Apply[i].AppliedAt
		}
		if diff := cmp.Diff(applied, p.Apply); diff != "" {
			t.Errorf("(-applied +planned)\n%s", diff)
		}
		if p := plan(t, pool); !p.Empty() || len(p.Create)+len(p.Adopt)+len(p.Convert) != 0 {
			t.Errorf("plan for a migrated database: %+v", p)
		}
	})
}

func TestMakePlan_NamesTheTablesOfTheHost(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, hosts)
	p := plan(t, pool)
	if diff := cmp.Diff([]string{"feature_flags", "user_automation_settings"}, p.Adopt); diff != "" {
		t.Errorf("adopts (-want +got)\n%s", diff)
	}
	if len(p.Refuse) != 0 {
		t.Errorf("refuses %q", p.Refuse)
	}
	want := []string{"column enabled of feature_flags: boolean becomes boolean NOT NULL", "column enabled_user_ids of feature_flags: text becomes jsonb NOT NULL"}
	if diff := cmp.Diff(want, p.Convert); diff != "" {
		t.Errorf("converts (-want +got)\n%s", diff)
	}
	for _, o := range []string{"column deleted_at of user_automation_settings", "trigger automation_flag_changed of feature_flags"} {
		if !slices.Contains(p.Create, o) {
			t.Errorf("the plan does not create the %s: %q", o, p.Create)
		}
	}
}

// Another tool took everything back, or somebody dropped a part, and the
// migrations are still recorded.
func TestMigrate_RepairsWhatIsMissing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("migrates a database for every object of the schema")
	}
	for name, damage := range map[string]func(t *testing.T, pool *sqlx.DB){
		"everything but the record": func(t *testing.T, pool *sqlx.DB) {
			rows := list[struct {
				Version int
				Name    string
			}](t, pool, `SELECT version, name FROM automation_schema_migrations`)
			down(t, pool)
			text := files(t, pool, "up")[0]
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
				problems(t, pool, "")
				if n := scalar[int](t, pool, `SELECT count(*) FROM user_automation_settings`); n != kept {
					t.Errorf("%d settings, want %d", n, kept)
				}
				if applied := migrate(t, pool); len(applied) != 0 {
					t.Errorf("applied %v once more", applied)
				}
			})
		})
	}
}

// The plan's own way back: the backup of before is restored over everything.
func TestMigrate_RepairsARestoredBackup(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("pg_restore"); err != nil {
		t.Skip("no pg_restore on PATH")
	}
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	execute(t, pool, hostsSettings, `CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text)`,
		`INSERT INTO feature_flags VALUES ('automation', true, '1,2')`)
	before := append(description(t, pool, "feature_flags"), description(t, pool, "user_automation_settings")...)
	dump := t.TempDir() + "/pre_automation_backup.dump"
	if out, err := exec.CommandContext(t.Context(), "pg_dump", "--dbname", dsn, "-Fc", "-f", dump).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "server version mismatch") {
			t.Skip("pg_dump on PATH is older than the server")
		}
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
	migrate(t, pool)
	execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 50, enabled_user_ids = '[3]'`, `UPDATE user_automation_settings SET is_enabled = true`)
	command(t, "pg_restore", "--dbname", dsn, "--clean", "--if-exists", dump)
	if diff := cmp.Diff(before, append(description(t, pool, "feature_flags"), description(t, pool, "user_automation_settings")...)); diff != "" {
		t.Fatalf("restored (-before +after)\n%s", diff)
	}
	if p := plan(t, pool); !p.Repair || len(p.Adopt) != 2 {
		t.Errorf("plan %+v, want both tables adopted again", p)
	}
	if applied := migrate(t, pool); len(applied) == 0 {
		t.Error("nothing was missing, it says")
	}
	problems(t, pool, "")
	if ids := scalar[string](t, pool, `SELECT enabled_user_ids FROM feature_flags WHERE feature_name = 'automation'`); ids != `["1", "2"]` {
		t.Errorf("the list is %s, want that of the backup", ids)
	}
	down(t, pool)
	if diff := cmp.Diff(before, append(description(t, pool, "feature_flags"), description(t, pool, "user_automation_settings")...)); diff != "" {
		t.Errorf("given back (-before +after)\n%s", diff)
	}
}

// command runs a program that must succeed, and returns what it printed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
