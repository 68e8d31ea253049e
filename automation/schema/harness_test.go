package schema_test

import (
	"encoding/json"
	"flag"
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

func TestMain(m *testing.M) {
	// Most tests wait for the server, so more of them run at once than there are cores.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// onBoth runs a test on an empty database of each kind.
func onBoth(t *testing.T, test func(t *testing.T, pool *sqlx.DB)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) { test(t, postgres(t)) })
	t.Run("sqlite", func(t *testing.T) { test(t, sqlite(t, filepath.Join(t.TempDir(), "a.db"))) })
}

func postgres(t *testing.T) *sqlx.DB {
	t.Helper()
	return pgtest.Open(t, pgtest.Database(t))
}

func sqlite(t *testing.T, file string) *sqlx.DB {
	t.Helper()
	pool, err := sqlx.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	pool.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = pool.Close() })
	return pool
}

func isSQLite(pool *sqlx.DB) bool { return pool.DriverName() == "sqlite" }

func migrated(t *testing.T, pool *sqlx.DB) *sqlx.DB {
	t.Helper()
	schematest.Migrate(t, pool)
	return pool
}

func migratedPostgres(t *testing.T) *sqlx.DB {
	t.Helper()
	return pgtest.Open(t, schematest.Database(t))
}

func migrate(t *testing.T, pool *sqlx.DB) []schema.Migration {
	t.Helper()
	list, err := schema.Migrate(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func down(t *testing.T, pool *sqlx.DB) {
	t.Helper()
	if _, err := schema.Down(t.Context(), pool, 99); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, pool *sqlx.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := pool.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func selectRows[T any](t *testing.T, pool *sqlx.DB, query string, args ...any) (rows []T) {
	t.Helper()
	if err := pool.SelectContext(t.Context(), &rows, query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return rows
}

func scalar[T any](t *testing.T, pool *sqlx.DB, query string, args ...any) (v T) {
	t.Helper()
	if err := pool.GetContext(t.Context(), &v, query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// listObjects returns all objects of a database except those of automation_schema_migrations.
func listObjects(t *testing.T, pool *sqlx.DB) []string {
	t.Helper()
	if isSQLite(pool) {
		return selectRows[string](t, pool, `SELECT type || ' ' || name FROM sqlite_master WHERE tbl_name <> 'automation_schema_migrations' AND name NOT LIKE 'sqlite_%' ORDER BY 1`)
	}
	return selectRows[string](t, pool, `SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname NOT LIKE 'automation_schema_migrations%'
		UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
		UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1`)
}

func parseJSON(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}
