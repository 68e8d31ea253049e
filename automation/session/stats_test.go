package session_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

func TestStats_CountsSessionsByIndex(t *testing.T) {
	skipShort(t)
	t.Parallel()
	dsn := schematest.Database(t)
	observer := pgtest.Open(t, dsn)
	insertSessions(t, observer, 40_000) // one in twenty is open
	for _, q := range []string{
		`UPDATE automation_sessions SET lease_token = 't', lease_holder = 'h', lease_until = now() + interval '1 hour' WHERE id IN ('id-20', 'id-40')`,
		`UPDATE automation_sessions SET lease_token = 't', lease_holder = 'h', lease_until = now() - interval '1 hour' WHERE id = 'id-60'`,
		`UPDATE automation_sessions SET state = 'ending', next_at = now() - interval '10 minutes' WHERE id IN ('id-20', 'id-80', 'id-100')`,
		`UPDATE automation_sessions SET state = 'unknown', next_at = now() - interval '1 minute' WHERE id = 'id-120'`,
		`UPDATE automation_sessions SET state = 'lost' WHERE id = 'id-140'`,
		`VACUUM ANALYZE automation_sessions`,
	} {
		if _, err := observer.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	scans := func() (n int64) {
		t.Helper()
		if err := observer.GetContext(t.Context(), &n, `SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'automation_sessions'`); err != nil {
			t.Fatal(err)
		}
		return n
	}
	observer.SetMaxIdleConns(0) // a connection's reads are counted completely once it is closed
	before := scans()
	db, err := sqlx.Open(observer.DriverName(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	m, err := session.New(db, nil, session.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := m.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Overdue < 10*time.Minute || stats.Overdue > time.Hour {
		t.Errorf("the longest overdue row is due for %v, want 10 minutes", stats.Overdue)
	}
	stats.Overdue = 0
	want := session.Stats{ByState: map[string]int64{"opening": 0, "unknown": 1, "open": 1995, "ending": 3, "lost": 1}, Held: 2, Abandoned: 1, Due: 3}
	if diff := cmp.Diff(want, stats); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	waitUntil(t, "the manager's connections are closed", func() bool {
		var others int
		err := observer.Get(&others, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		return err == nil && others == 0
	})
	if n := scans() - before; n != 0 {
		t.Errorf("Stats scanned the whole table %d times, want 0", n)
	}
}
