package sqldb_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onBoth runs a test on each database.
func onBoth(t *testing.T, test func(t *testing.T, pool *sqlx.DB)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.Open(t, pgtest.Database(t))) })
	t.Run("sqlite", func(t *testing.T) { test(t, sqlite(t)) })
}

// onDrivers runs a test with each driver of PostgreSQL.
func onDrivers(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	for _, driver := range []string{"postgres", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Setenv("AUTOMATION_TEST_DRIVER", driver)
			test(t)
		})
	}
}

func sqlite(tb testing.TB) *sqlx.DB {
	tb.Helper()
	pool, err := sqlx.Open("sqlite", "file:"+filepath.Join(tb.TempDir(), "a.db")+"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		tb.Fatal(err)
	}
	pool.SetMaxOpenConns(1)
	tb.Cleanup(func() { _ = pool.Close() })
	return pool
}

// proxied returns a pool that reaches a database through a proxy. The database
// has a table "tokens".
func proxied(t *testing.T) (pool *sqlx.DB, proxy *pgtest.Proxy) {
	t.Helper()
	dsn := pgtest.Database(t)
	execute(t, pgtest.Open(t, dsn), `CREATE TABLE tokens (token text)`)
	proxy = pgtest.NewProxy(t, dsn)
	return pgtest.Open(t, proxy.DSN()), proxy
}

func execute(t *testing.T, pool *sqlx.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := pool.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func scalar[T any](t *testing.T, pool *sqlx.DB, query string) (v T) {
	t.Helper()
	if err := pool.GetContext(t.Context(), &v, query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// insert writes one token, and counts in *calls the runs of its function.
func insert(ctx context.Context, db *sqldb.DB, calls *int) error {
	_, err := sqldb.Write(ctx, db, "insert", func(tx *sqldb.Tx) (int64, error) {
		*calls++
		return tx.Exec(`INSERT INTO tokens VALUES ('t')`)
	})
	return err
}

// waitFor waits until ok returns true, which another goroutine brings about.
func waitFor(t *testing.T, condition string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("timed out waiting until %s", condition)
		}
	}
}
