package settings_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onBoth runs a test on each database, migrated and empty.
func onBoth(t *testing.T, test func(t *testing.T, pool *sqlx.DB)) {
	t.Helper()
	for name, open := range map[string]func(testing.TB) *sqlx.DB{"postgres": postgres, "sqlite": sqlite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, migrated(t, open(t)))
		})
	}
}

func postgres(tb testing.TB) *sqlx.DB {
	tb.Helper()
	return pgtest.Open(tb, schematest.Database(tb))
}

func sqlite(tb testing.TB) *sqlx.DB {
	tb.Helper()
	pool, err := sqlx.Open("sqlite", "file:"+filepath.Join(tb.TempDir(), "a.db")+
		"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		tb.Fatal(err)
	}
	pool.SetMaxOpenConns(1) // writers queue here rather than poll for the file's lock
	tb.Cleanup(func() {
		if err := pool.Close(); err != nil {
			tb.Error(err)
		}
	})
	return pool
}

func migrated(tb testing.TB, pool *sqlx.DB) *sqlx.DB {
	tb.Helper()
	schematest.Migrate(tb, pool)
	return pool
}

// busyTimeout bounds each use of the database. It must suffice on a machine at a
// load of 50.
const busyTimeout = time.Minute

func newStore(tb testing.TB, pool *sqlx.DB) *settings.Store {
	tb.Helper()
	return newStoreWith(tb, pool, settings.StoreOptions{})
}

func newStoreWith(tb testing.TB, pool *sqlx.DB, o settings.StoreOptions) *settings.Store {
	tb.Helper()
	o.ReadTimeout = busyTimeout
	o.SetTimeout(busyTimeout)
	store, err := settings.NewStore(pool, settings.Defaults{}, o)
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

// must returns a function that returns its first argument and fails the test on
// an error.
func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func on(d time.Duration) settings.Values  { return settings.Values{IsEnabled: true, SessionDuration: d} }
func off(d time.Duration) settings.Values { return settings.Values{SessionDuration: d} }
