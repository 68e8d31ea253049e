package pgtest_test

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// execute executes a statement that must succeed.
func execute(t *testing.T, db sqlx.ExecerContext, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// scalar returns the one value that a query returns.
func scalar[T any](t *testing.T, db sqlx.QueryerContext, query string) (value T) {
	t.Helper()
	if err := sqlx.GetContext(t.Context(), db, &value, query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

func TestDatabase_IsIsolatedFromOthers(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Open(t, pgtest.Database(t)), pgtest.Open(t, pgtest.Database(t))
	execute(t, a, "CREATE TABLE only_in_a (id int)")
	if n := scalar[int](t, b, "SELECT count(*) FROM pg_tables WHERE tablename = 'only_in_a'"); n != 0 {
		t.Error("a table of one database exists in the other")
	}
	if got, want := scalar[string](t, a, "SHOW server_encoding"), "UTF8"; got != want {
		t.Errorf("encoding %s, want %s", got, want)
	}
}

func TestDatabase_IsDroppedWithItsTestWhileAClientIsConnected(t *testing.T) {
	t.Parallel()
	outer := pgtest.Open(t, pgtest.Database(t))
	var dsn string
	t.Run("inner", func(t *testing.T) { dsn = pgtest.Database(t); execute(t, pgtest.Open(t, dsn), "SELECT 1") })
	if err := pgtest.Open(t, dsn).PingContext(t.Context()); err == nil {
		t.Errorf("%s still answers after its test", dsn)
	}
	if got := scalar[int](t, outer, "SELECT 1"); got != 1 {
		t.Errorf("SELECT 1 in the outer test's database returns %d", got)
	}
}

func TestCopy_FillsOnceForAllCopies(t *testing.T) {
	t.Parallel()
	fills := 0
	var dsns []string
	for range 3 {
		dsns = append(dsns, pgtest.Copy(t, "journal", func(ctx context.Context, db *sqlx.DB) error {
			fills++
			_, err := db.ExecContext(ctx, "CREATE TABLE journal AS SELECT 1 AS id")
			return err
		}))
	}
	for _, dsn := range dsns {
		db := pgtest.Open(t, dsn)
		execute(t, db, "INSERT INTO journal VALUES (2)")
		if n := scalar[int](t, db, "SELECT count(*) FROM journal"); n != 2 || fills != 1 {
			t.Errorf("%d rows after %d fills, want 2, the template's and the copy's own, after 1 fill", n, fills)
		}
	}
}

func TestOpen_TakesTheSameDSNForBothDrivers(t *testing.T) {
	for _, driver := range []string{"postgres", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Setenv("AUTOMATION_TEST_DRIVER", driver)
			t.Setenv("PGPORT", "1")
			t.Setenv("PGHOST", "nowhere.invalid")
			db := pgtest.Open(t, pgtest.Database(t))
			if db.DriverName() != driver {
				t.Errorf("the driver is %s, want %s", db.DriverName(), driver)
			}
			execute(t, db, "SELECT 1")
			execute(t, pgtest.Open(t, pgtest.NewProxy(t, pgtest.Database(t)).DSN()), "SELECT 1")
		})
	}
}

func TestPgBouncer_PoolsTransactions(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	pooled := pgtest.Open(t, pgtest.PgBouncer(t, direct))
	execute(t, pooled, "CREATE TABLE seen (id int)")
	if n := scalar[int](t, pgtest.Open(t, direct), "SELECT count(*) FROM pg_tables WHERE tablename = 'seen'"); n != 1 {
		t.Error("a table made through the pooler is not in the database")
	}
	// Two clients in transactions need two backends. Between transactions they may share one.
	backend := func(db sqlx.QueryerContext) int { return scalar[int](t, db, "SELECT pg_backend_pid()") }
	other := pgtest.Open(t, pgtest.PgBouncer(t, direct))
	if a, b := backend(pooled), backend(other); a == b {
		t.Errorf("two poolers share backend %d", a)
	}
	tx, err := pooled.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	inTx := backend(tx)
	second := backend(pooled)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if inTx == second {
		t.Errorf("backend %d served another client during a transaction", inTx)
	}
	pooled.SetMaxIdleConns(0) // a new client each time
	if a, b := backend(pooled), backend(pooled); a != b && a != inTx && a != second {
		t.Errorf("two clients got the new backends %d and %d, want an existing one of the pool", a, b)
	}
}

func TestPgBouncer_StartsAgainAfterItHasEnded(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("pkill"); err != nil {
		t.Skip(err)
	}
	dsn := pgtest.PgBouncer(t, pgtest.Database(t))
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	scalar[int](t, pgtest.Open(t, dsn), "SELECT 1")
	if out, err := exec.CommandContext(t.Context(), "pkill", "-KILL", "-f", "^[^ ]*pgbouncer "+u.Query().Get("host")).CombinedOutput(); err != nil {
		t.Fatalf("no PgBouncer was killed: %v %s", err, out)
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(2 * time.Minute)
	for one := 0; pgtest.Open(t, dsn).GetContext(t.Context(), &one, "SELECT 1") != nil; {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("PgBouncer does not serve again")
		}
	}
}

func TestPgBouncer_CombinesWithProxies(t *testing.T) {
	t.Parallel()
	behind := pgtest.NewProxy(t, pgtest.Database(t))
	front := pgtest.NewProxy(t, pgtest.PgBouncer(t, behind.DSN()))
	if got := scalar[int](t, pgtest.Open(t, front.DSN()), "SELECT 1"); got != 1 {
		t.Errorf("SELECT 1 returns %d", got)
	}
}

// CI runs the suites with several versions, and must not run the same version twice.
func TestDatabase_HasTheRequestedVersion(t *testing.T) {
	t.Parallel()
	want := os.Getenv("AUTOMATION_TEST_VERSION")
	if want == "" {
		t.Skip("AUTOMATION_TEST_VERSION is not set: any version is right")
	}
	if got := scalar[string](t, pgtest.Open(t, pgtest.Database(t)), "SHOW server_version"); !strings.HasPrefix(got, want+".") {
		t.Errorf("the server is PostgreSQL %s, want %s", got, want)
	}
}
