package schematest

import (
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// OnBoth runs a test on a migrated database of each kind, as its sub-tests
// "postgres" and "sqlite".
func OnBoth(t *testing.T, test func(t *testing.T, db *sqlx.DB)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) { test(t, PostgreSQL(t)) })
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
}

// PostgreSQL returns a pool on a [Database] of the test's own.
func PostgreSQL(tb testing.TB) *sqlx.DB {
	tb.Helper()
	return pgtest.Open(tb, Database(tb))
}

// SQLite returns a pool on a migrated file of the test's own. The pool has one
// connection, for which writers queue instead of polling for the file's lock.
func SQLite(tb testing.TB) *sqlx.DB {
	tb.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(tb.TempDir(), "a.db")+
		"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { _ = db.Close() })
	Migrate(tb, db)
	return db
}
