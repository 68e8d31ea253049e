package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// insertSessions inserts n sessions into a PostgreSQL database. Each user has twenty, of which one
// is open.
func insertSessions(tb testing.TB, db *sqlx.DB, n int) {
	tb.Helper()
	if _, err := db.Exec(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, provider, created_at, called_at, opened_at, ends_at, last_used_at, next_at, closed_at)
			SELECT 'id-' || i, '0x' || i, 'model', 'user-' || i / 20, 'user-' || i / 20, now() - i % 90 * interval '1 day', 3600,
				CASE WHEN i % 20 = 0 THEN 'open' ELSE 'closed' END, '0xp', now(), now(), now(),
				now() + interval '1 day' * (CASE WHEN i % 20 = 0 THEN 1 ELSE -1 END), now() - interval '1 hour',
				now() + interval '1 day' * (CASE WHEN i % 20 = 0 THEN 1 ELSE -1 END), CASE WHEN i % 20 <> 0 THEN now() - interval '1 hour' - i % 90 * interval '1 day' END
			FROM generate_series(20, 19 + CAST($1 AS int)) i`, n); err != nil {
		tb.Fatal(err)
	}
	if _, err := db.Exec(`ANALYZE automation_sessions`); err != nil {
		tb.Fatal(err)
	}
}

// PostgreSQL counts what is read. Its counters are complete once the connections that read are
// closed.
func TestStore_ReadsNoWholeTable(t *testing.T) {
	skipShort(t)
	t.Parallel()
	const sessions = 50_000
	dsn := schematest.Database(t)
	observer := pgtest.Open(t, dsn)
	insertSessions(t, observer, sessions)
	read := func() (scans, entries int64) {
		t.Helper()
		if err := observer.Get(&scans, `SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'automation_sessions'`); err != nil {
			t.Fatal(err)
		}
		if err := observer.Get(&entries, `SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'automation_sessions'`); err != nil {
			t.Fatal(err)
		}
		return scans, entries
	}
	// waitAlone waits until no other connection is open, so that all reads are counted.
	waitAlone := func() {
		t.Helper()
		waitUntil(t, "all other connections are closed", func() bool {
			var others int
			err := observer.Get(&others, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`)
			return err == nil && others == 0
		})
	}
	observer.SetMaxIdleConns(0)
	waitAlone()
	scans, entries := read()

	db, err := sqlx.Open(observer.DriverName(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	statements := map[string]int{}
	count := func(name string, _, _ time.Duration, _ error) {
		mu.Lock()
		defer mu.Unlock()
		statements[name]++
	}
	p := &fakeNode{onOpen: func(n int) error {
		switch n {
		case 2:
			return session.ErrWalletCollision
		case 4:
			return session.ErrNotOpened
		case 5:
			return errors.New("cut")
		}
		return nil
	}}
	o := testOptions()
	o.OpensPerHour, o.OpensPerDay, o.Lease, o.CloseAfter, o.ReconcileTimeout = 100, 100, 6*time.Second, time.Millisecond, 100*time.Millisecond
	o.Renew = func(context.Context, string) (time.Duration, bool) { return time.Hour, true }
	o.Prewarm = func() []session.Prewarm { return []session.Prewarm{{ModelID: "warm", Duration: time.Hour}} }
	o.ObserveSQL = count
	m, stop := startManager(t, db, p, o)
	for i := range 40 { // users with an open session, and users without
		c, err := m.Acquire(t.Context(), requestForModel(fmt.Sprint("user-", 1+i*60), "model"))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			waitUntil(t, "the lease is extended", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return statements["sessions.heartbeat"] > 0
			})
			if err := errors.Join(c.ReportFailure(), c.MarkExpired()); err != nil {
				t.Error(err)
			}
		}
		c.Release()
	}
	for i := range 6 {
		if c, err := m.Acquire(t.Context(), requestForModel(fmt.Sprint("new-", i), "another")); err == nil {
			c.Release()
		}
	}
	if c, err := m.AcquireSession(t.Context(), "user-2", "0x40"); err != nil {
		t.Error(err)
	} else {
		c.Release()
	}
	if _, err := m.List(t.Context(), "user-2"); err != nil {
		t.Error(err)
	}
	if _, err := m.End(t.Context(), "user-2", "0x40"); err != nil {
		t.Error(err)
	}
	if err := m.EraseUser(t.Context(), "user-3"); err != nil {
		t.Error(err)
	}
	for _, q := range []string{
		`UPDATE automation_wallet SET alone_until = now()`, // closes would wait until the minute after the collision is over
		`UPDATE automation_sessions SET next_at = now() + interval '1 minute', ends_at = now() + interval '1 minute', last_used_at = now() WHERE id = 'id-80'`,
	} {
		if _, err := observer.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := m.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	stop()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	waitAlone()
	scansAfter, entriesAfter := read()
	total := 0
	for _, n := range statements {
		total += n
	}
	if scansAfter != scans {
		t.Errorf("the table was scanned %d times by the calls %v, want 0", scansAfter-scans, statements)
	}
	// A claim and a release each find their row twice, because they skip locked ones.
	if perCall := (entriesAfter - entries) / int64(total); perCall > 8 {
		t.Errorf("%d calls read %d index entries, %d each, in a table of %d rows; want at most 8 each", total, entriesAfter-entries, perCall, sessions)
	}
	for _, name := range []string{"claim", "claim_named", "heartbeat", "release", "retire", "list", "end", "erase_user", "reserve", "begin_call", "collided",
		"complete", "fail", "mark_unknown", "due", "take_unresolved", "known", "foreign", "unresolved", "take_audit", "set_unexplained", "provider_failures", "forget", "take_due", "closed", "expiring", "idle"} {
		if statements["sessions."+name] == 0 {
			t.Errorf("the test did not run the call %s", name)
		}
	}
}
