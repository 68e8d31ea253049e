package schematest_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// sqlite returns a pool on an empty SQLite database.
func sqlite(t *testing.T) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_txlock=immediate&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestMigrate_MakesTheExpectedSchema(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *sqlx.DB{
		"sqlite":   sqlite,
		"postgres": func(t *testing.T) *sqlx.DB { return pgtest.Open(t, pgtest.Database(t)) },
		"a copy":   func(t *testing.T) *sqlx.DB { return pgtest.Open(t, schematest.Database(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			for range 2 { // the second call must change nothing
				schematest.Migrate(t, db)
			}
			if problems, err := schema.Verify(t.Context(), db, ""); err != nil || len(problems) > 0 {
				t.Errorf("Verify reports %v, error %v; want no problems", problems, err)
			}
			if applied, err := schema.Migrate(t.Context(), db); err != nil || len(applied) != 0 {
				t.Errorf("schema.Migrate applied %v afterwards, error %v; want nothing left to apply", applied, err)
			}
		})
	}
}

func TestMigrate_GivesEachTestADatabaseOfItsOwn(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		db := sqlite(t)
		all.Go(func() {
			schematest.Migrate(t, db)
			var mode string
			if err := db.Get(&mode, `PRAGMA journal_mode`); err != nil || mode != "wal" {
				t.Errorf("journal mode %q, error %v; want wal, as the database's DSN says", mode, err)
			}
			if _, err := db.Exec(`UPDATE feature_flags SET rollout_percentage = rollout_percentage + 1`); err != nil {
				t.Error(err)
			}
			var percentage int
			if err := db.Get(&percentage, `SELECT rollout_percentage FROM feature_flags`); err != nil || percentage != 1 {
				t.Errorf("percentage %d, error %v; want 1, because no other test changes this database", percentage, err)
			}
		})
	}
	all.Wait()
}
