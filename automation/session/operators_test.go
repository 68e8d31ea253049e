package session_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

func TestEndAny_EndsAnOpenSession(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		m, _ := startManager(t, db, &fakeNode{}, testOptions())
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
		if err := m.EndAny(t.Context(), session.ID(c.SessionID())); err != nil {
			t.Fatal(err)
		}
		var reason string
		if err := db.Get(&reason, `SELECT reason FROM automation_sessions`); err != nil || reason != "operator" {
			t.Errorf("the session's reason is %q, error %v; want operator", reason, err)
		}
		waitUntil(t, "the session is closed", func() bool { return countByState(t, db)["closed"] == 1 })
		for _, id := range []session.ID{session.ID(c.SessionID()), "0xnone"} {
			if err := m.EndAny(t.Context(), id); !errors.Is(err, session.ErrUnmanaged) {
				t.Errorf("EndAny(%s) = %v, want ErrUnmanaged", id, err)
			}
		}
	})
}

func TestSessions_AreListedByIndex(t *testing.T) {
	t.Parallel()
	db := schematest.PostgreSQL(t)
	insertSessions(t, db, 20_000)
	if _, err := db.ExecContext(t.Context(), `VACUUM ANALYZE automation_sessions`); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		`SELECT id FROM automation_sessions ORDER BY created_at DESC, id DESC LIMIT 101`,
		`SELECT id FROM automation_sessions WHERE state = 'unknown' ORDER BY created_at DESC, id DESC LIMIT 101`,
		`SELECT id FROM automation_sessions WHERE created_at <= (SELECT created_at FROM automation_sessions WHERE id = 'id-9000')
			AND (created_at < (SELECT created_at FROM automation_sessions WHERE id = 'id-9000') OR id < 'id-9000') ORDER BY created_at DESC, id DESC LIMIT 101`,
	} {
		var plan []string
		if err := db.SelectContext(t.Context(), &plan, `EXPLAIN `+query); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan") || strings.Contains(text, "Sort") && !strings.Contains(text, "Incremental Sort") {
			t.Errorf("%s\nreads the whole table or sorts it:\n%s", query, text)
		}
	}
}
