package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func TestMigrate_RunsUpDownAndUpAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		for range 2 {
			if n := countRecorded(t, pool); n != 0 {
				t.Errorf("%d migrations are recorded before Migrate, want 0", n)
			}
			applied := migrate(t, pool)
			if len(applied) == 0 || applied[0].Version != 1 || applied[0].Name != "automation" {
				t.Errorf("applied %v, want all migrations beginning with 1, automation", applied)
			}
			if again := migrate(t, pool); len(again) != 0 {
				t.Errorf("the second Migrate applied %v, want nothing", again)
			}
			if n := countRecorded(t, pool); n != len(applied) {
				t.Errorf("%d migrations are recorded, want %d", n, len(applied))
			}
			status, err := schema.Status(t.Context(), pool)
			if diff := cmp.Diff(applied, status); err != nil || diff != "" || time.Since(status[0].AppliedAt).Abs() > 20*time.Minute {
				t.Errorf("status %v, error %v: (-applied +status)\n%s", status, err, diff)
			}
			if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flags WHERE feature_name = 'automation' AND enabled AND rollout_percentage = 0`); n != 1 {
				t.Error("the flag automation is missing, off, or not at 0 %")
			}
			reverted, err := schema.Down(t.Context(), pool, 99)
			if err != nil || len(reverted) != len(applied) || reverted[len(reverted)-1].Version != 1 || !reverted[0].AppliedAt.IsZero() {
				t.Errorf("reverted %v, error %v; want all migrations, the last one first", reverted, err)
			}
			if left := listObjects(t, pool); len(left) != 0 {
				t.Errorf("objects %q are left after Down, want none", left)
			}
			if reverted, err := schema.Down(t.Context(), pool, 1); err != nil || len(reverted) != 0 {
				t.Errorf("Down of an empty database reverted %v, error %v; want nothing", reverted, err)
			}
		}
	})
}

func TestStatus_ChangesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		status, err := schema.Status(t.Context(), pool)
		if err != nil || len(status) == 0 {
			t.Errorf("status %v, error %v; want all migrations", status, err)
		}
		for _, m := range status {
			if !m.AppliedAt.IsZero() {
				t.Errorf("migration %v has a time of application, want none", m)
			}
		}
		if created := listObjects(t, pool); len(created) != 0 {
			t.Errorf("Status created %q, want nothing", created)
		}
	})
}

func TestDown_DropsTablesWithData(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		migrate(t, pool)
		execute(t, pool,
			`UPDATE feature_flags SET enabled_user_ids = '[1, 2, 3]' WHERE feature_name = 'automation'`,
			`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`,
			`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`,
			`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES ('alice', true, 3600)`,
			`INSERT INTO automation_sessions (id, model_id, owner_id, user_id, duration, state, created_at, next_at)
				VALUES ('a', 'm', 'alice', 'alice', 3600, 'opening', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000')`)
		down(t, pool)
		if left := listObjects(t, pool); len(left) != 0 {
			t.Errorf("objects %q are left after Down, want none", left)
		}
		migrate(t, pool)
	})
}

func TestMigrations_MayBeAppliedTwice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		migrate(t, pool)
		execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`, `DELETE FROM automation_schema_migrations`)
		before := listObjects(t, pool)
		if applied := migrate(t, pool); len(applied) == 0 {
			t.Error("Migrate applied nothing, want all migrations")
		}
		if diff := cmp.Diff(before, listObjects(t, pool)); diff != "" {
			t.Errorf("objects (-before +after)\n%s", diff)
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flags WHERE rollout_percentage = 10 AND version = 2`); n != 1 {
			t.Error("applying the migrations again changed the flag")
		}
		down(t, pool)
		if left := listObjects(t, pool); len(left) != 0 {
			t.Errorf("objects %q are left after Down, want none", left)
		}
	})
}

func TestMigrate_RunsInTenReplicasAtOnce(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) func() *sqlx.DB{
		"postgres": func(t *testing.T) func() *sqlx.DB {
			dsn := pgtest.Database(t)
			return func() *sqlx.DB { return pgtest.Open(t, dsn) }
		},
		"postgres through a pooler": func(t *testing.T) func() *sqlx.DB {
			dsn := pgtest.PgBouncer(t, pgtest.Database(t))
			if pgtest.Open(t, dsn).DriverName() == "pgx" {
				dsn += "&default_query_exec_mode=exec"
			}
			return func() *sqlx.DB { return pgtest.Open(t, dsn) }
		},
		"sqlite": func(t *testing.T) func() *sqlx.DB {
			file := filepath.Join(t.TempDir(), "a.db")
			return func() *sqlx.DB { return sqlite(t, file) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			next := open(t)
			var mu sync.Mutex
			var applied []schema.Migration
			var wait sync.WaitGroup
			for range 10 {
				pool := next()
				wait.Go(func() {
					list, err := schema.Migrate(t.Context(), pool)
					mu.Lock()
					defer mu.Unlock()
					applied = append(applied, list...)
					if err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			slices.SortFunc(applied, func(a, b schema.Migration) int { return a.Version - b.Version })
			if status, err := schema.Status(t.Context(), next()); err != nil || !cmp.Equal(applied, status) {
				t.Errorf("applied %v, status %v, error %v; want each migration applied once", applied, status, err)
			}
			if n := scalar[int](t, next(), `SELECT count(*) FROM feature_flags`); n != 1 {
				t.Errorf("%d flags, want 1", n)
			}
		})
	}
}

func TestMigrate_LeavesNoMigrationHalfApplied(t *testing.T) {
	t.Parallel()
	for direction, run := range map[string]func(context.Context, *sqlx.DB) error{
		"up":   func(ctx context.Context, pool *sqlx.DB) error { _, err := schema.Migrate(ctx, pool); return err },
		"down": func(ctx context.Context, pool *sqlx.DB) error { _, err := schema.Down(ctx, pool, 99); return err },
	} {
		t.Run(direction, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Database(t)
			direct := pgtest.Open(t, dsn)
			steps := len(migrate(t, direct))
			states := make([][]string, steps+1) // the objects by the number of applied migrations
			for n := steps; n > 0; n-- {
				states[n] = listObjects(t, direct)
				if _, err := schema.Down(t.Context(), direct, 1); err != nil {
					t.Fatal(err)
				}
			}
			first, last := 0, steps
			if direction == "down" {
				migrate(t, direct)
				first, last = steps, 0
			}
			// Each run loses its connection one reply later than the run before, until its
			// migration is applied. The next run then starts at the first reply again.
			runs := 0
			for n, lost := first, 1; ; lost++ {
				proxy := pgtest.NewProxy(t, dsn)
				pool := pgtest.Open(t, proxy.DSN())
				ctx, cancel := context.WithCancel(t.Context())
				var replies atomic.Int64
				proxy.LoseReplies(func(string) bool {
					if replies.Add(1) != int64(lost) {
						return false
					}
					cancel() // prevents another attempt
					return true
				})
				err := run(ctx, pool)
				cancel()
				runs++
				if replies.Load() < int64(lost) {
					if err != nil || countRecorded(t, direct) != last || runs < 4*steps {
						t.Errorf("error %v after %d replies of run %d, with %d migrations applied; want no error, %d applied and at least %d runs",
							err, replies.Load(), runs, countRecorded(t, direct), last, 4*steps)
					}
					return
				}
				if err == nil {
					t.Errorf("no error although reply %d was lost", lost)
				}
				// The server rolls back when it notices that its client has disconnected.
				waitFor(t, func() (string, bool) {
					now := countRecorded(t, direct)
					diff := cmp.Diff(states[now], listObjects(t, direct))
					if diff == "" && now != n {
						n, lost = now, 0
					}
					return fmt.Sprintf("objects after reply %d was lost, with %d migrations applied (-want +got)\n%s", lost, now, diff), diff == ""
				})
				_ = pool.Close()
			}
		})
	}
}

// readFiles returns the texts of a database's migrations in one direction, oldest
// first. Like another tool it reads them from the folder.
func readFiles(t *testing.T, pool *sqlx.DB, direction string) (texts []string) {
	t.Helper()
	dir := "postgres"
	if isSQLite(pool) {
		dir = "sqlite"
	}
	names, err := filepath.Glob(filepath.Join(dir, "*."+direction+".sql"))
	if err != nil || len(names) == 0 {
		t.Fatalf("files %v, error %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

func TestMigrations_RecordThemselvesInAnyTool(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		up, down := readFiles(t, pool, "up"), readFiles(t, pool, "down")
		for range 2 {
			for i, text := range up {
				if n := countRecorded(t, pool); n != i {
					t.Errorf("%d migrations are recorded, want %d", n, i)
				}
				execute(t, pool, text)
			}
			if applied := migrate(t, pool); len(applied) != 0 {
				t.Errorf("Migrate applied %v, want nothing", applied)
			}
			wantProblems(t, pool, "")
			for i, text := range slices.Backward(down) {
				execute(t, pool, text)
				if n := countRecorded(t, pool); n != i {
					t.Errorf("%d migrations are recorded after reverting migration %d, want %d", n, i+1, i)
				}
			}
		}
	})
}

// countRecorded counts the migrations that are recorded as applied.
func countRecorded(t *testing.T, pool *sqlx.DB) (n int) {
	t.Helper()
	status, err := schema.Status(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range status {
		if !m.AppliedAt.IsZero() {
			n++
		}
	}
	return n
}

// testTimeout limits how long a test waits for something that must happen. It is long
// enough for a machine at a load of 50.
const testTimeout = 5 * time.Minute

// waitFor waits until condition is true. The test fails with the condition's last message
// if that takes too long.
func waitFor(t *testing.T, condition func() (message string, ok bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		message, ok := condition()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("timed out: " + message)
		}
	}
}

func TestMigrate_SurvivesALostConnection(t *testing.T) {
	t.Parallel()
	for tag, n := range map[string]int{"COMMIT": 2, "CREATE TABLE": 3} {
		t.Run(tag, func(t *testing.T) {
			dsn := pgtest.Database(t)
			proxy := pgtest.NewProxy(t, dsn)
			seen := 0
			proxy.LoseReplies(func(got string) bool {
				if got == tag {
					seen++
				}
				return got == tag && seen == n
			})
			if applied := migrate(t, pgtest.Open(t, proxy.DSN())); len(applied) == 0 || applied[0].Version != 1 || applied[0].AppliedAt.IsZero() || proxy.Lost() != 1 {
				t.Errorf("applied %v with %d replies lost; want all migrations, 1", applied, proxy.Lost())
			}
			if applied := migrate(t, pgtest.Open(t, dsn)); len(applied) != 0 {
				t.Errorf("the second Migrate applied %v, want nothing", applied)
			}
		})
	}
}

func TestMigrate_ChangesNothingInANewerDatabase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		migrate(t, pool)
		execute(t, pool, `INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES (4711, 'future', '2030-01-02 03:04:05.000')`)
		if applied := migrate(t, pool); len(applied) != 0 {
			t.Errorf("applied %v, want nothing", applied)
		}
		status, err := schema.Status(t.Context(), pool)
		if err != nil || len(status) < 2 || status[len(status)-1].Name != "future" || status[len(status)-1].AppliedAt.Year() != 2030 {
			t.Errorf("status %v, error %v; want the unknown migration last", status, err)
		}
		reverted, err := schema.Down(t.Context(), pool, 1)
		if !errors.Is(err, schema.ErrNewer) || !strings.Contains(err.Error(), "4711") || len(reverted) != 0 {
			t.Errorf("reverted %v, error %v; want nothing, ErrNewer with 4711", reverted, err)
		}
	})
}

func TestMigrate_NamesTheGrantsThatARoleLacks(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.Options{})
	dsn := cluster.Database(t)
	owner := pgtest.Open(t, dsn)
	execute(t, owner, `CREATE ROLE "gateway-app" LOGIN`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("gateway-app")
	pool := pgtest.Open(t, u.String())
	_, err = schema.Migrate(t.Context(), pool)
	const grant = `GRANT USAGE, CREATE ON SCHEMA public TO "gateway-app"`
	if err == nil || !strings.Contains(err.Error(), grant) {
		t.Fatalf("error %v, want one that contains %s", err, grant)
	}
	t.Run("a migrated database needs only SELECT", func(t *testing.T) {
		migrate(t, owner)
		if _, err := schema.Status(t.Context(), pool); err == nil || !strings.Contains(err.Error(), `GRANT SELECT ON automation_schema_migrations TO "gateway-app"`) {
			t.Errorf("error %v, want one that contains the missing GRANT SELECT", err)
		}
		execute(t, owner, `GRANT SELECT ON automation_schema_migrations TO "gateway-app"`)
		if applied, err := schema.Migrate(t.Context(), pool); err != nil || len(applied) != 0 {
			t.Errorf("applied %v, error %v; want nothing", applied, err)
		}
		down(t, owner)
	})
	t.Run("the named grants are sufficient", func(t *testing.T) {
		execute(t, owner, grant)
		migrate(t, pool)
	})
}

func TestMigrate_GivesUpOnATableInUse(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	execute(t, pool, `CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text)`)
	tx, err := pool.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), `SELECT * FROM feature_flags`); err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "is using a table") {
		t.Errorf("error %v, want one that says that a transaction is using a table", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	migrate(t, pool)
}

func TestMigrate_ReportsAnUnavailableDatabase(t *testing.T) {
	t.Parallel()
	pool := sqlite(t, filepath.Join(t.TempDir(), "no", "such", "dir", "a.db"))
	_, migrateErr := schema.Migrate(t.Context(), pool)
	_, downErr := schema.Down(t.Context(), pool, 1)
	_, statusErr := schema.Status(t.Context(), pool)
	for name, err := range map[string]error{"Migrate": migrateErr, "Down": downErr, "Status": statusErr} {
		if !errors.Is(err, schema.ErrUnavailable) {
			t.Errorf("%s: error %v, want ErrUnavailable", name, err)
		}
	}
}
