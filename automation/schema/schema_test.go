package schema_test

import (
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

func sqlite(t *testing.T) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestSQLite(t *testing.T) {
	db := sqlite(t)
	ms, err := schema.Migrate(t.Context(), db)
	t.Log(ms, err)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`UPDATE feature_flags SET enabled_user_ids = '[1, 2, 3]' WHERE feature_name = 'automation'`,
		`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`,
		`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	rows, _ := db.Queryx(`select version, action, changed_by, before, after from feature_flag_events`)
	for rows.Next() {
		r, _ := rows.SliceScan()
		t.Log(r)
	}
	t.Log(schema.Status(t.Context(), db))
	t.Log(schema.Down(t.Context(), db, 1))
}
