package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestUsage_ReportsWhatTheLimitsLeave(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		_, client := startNode(t, proxyroutertest.Options{})
		o := testOptions()
		o.OpensPerHour, o.OpensPerDay = 2, 50
		m, _ := startManager(t, db, client, o)
		usage := func(user string) session.Usage {
			t.Helper()
			u, err := m.Usage(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		empty := session.Usage{MaxHeld: 4, MaxOpensHour: 2, MaxOpensDay: 50}
		if diff := cmp.Diff(empty, usage("alice")); diff != "" {
			t.Errorf("usage before any open (-want +got):\n%s", diff)
		}
		acquire := func(model string) error {
			c, err := m.Acquire(t.Context(), requestForModel("alice", proxyroutertest.ModelID(model)))
			if err == nil {
				c.Release()
			}
			return err
		}
		if err := errors.Join(acquire("llama"), acquire("llama"), acquire("qwen")); err != nil {
			t.Fatal(err)
		}
		got := usage("alice")
		if got.Held != 2 || got.OpensHour != 2 || got.OpensDay != 2 {
			t.Errorf("usage after two opens: %+v, want 2 held and 2 opens in hour and day", got)
		}
		// Usage and the refusal of an open agree on the time.
		refused, ok := errors.AsType[*session.BudgetError](acquire("mistral"))
		if !ok {
			t.Fatal("a third open within the hour was allowed")
		}
		if d := got.FreeIn - refused.RetryAfter; d < -time.Second || d > time.Minute || got.FreeIn > time.Hour {
			t.Errorf("usage says free in %v, the refusal says retry after %v; want nearly the same, within an hour", got.FreeIn, refused.RetryAfter)
		}
		if diff := cmp.Diff(empty, usage("bob")); diff != "" {
			t.Errorf("usage of another user (-want +got):\n%s", diff)
		}
	})
}

// MaxPerUser counts sessions in use of any model, and idle sessions of the requested model. Twice
// as many may be open in all.
func TestAcquire_IgnoresIdleSessionsOfOtherModels(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 2
		m, _ := startManager(t, db, p, o)
		acquire := func(model string) *session.Claim {
			t.Helper()
			c, err := m.Acquire(t.Context(), requestForModel("alice", model))
			if err != nil {
				t.Fatalf("a session of model %s: %v", model, err)
			}
			return c
		}
		refusal := func(model string, limit int) (retryAfter time.Duration) {
			t.Helper()
			_, err := m.Acquire(t.Context(), requestForModel("alice", model))
			b, ok := errors.AsType[*session.BudgetError](err)
			if !ok || b.Limit != session.LimitSessions || b.Max != limit {
				t.Fatalf("a session of model %s: got %v, want a limit of %d sessions", model, err, limit)
			}
			return b.RetryAfter
		}
		checkUsage := func(held int, free bool) {
			t.Helper()
			u, err := m.Usage(t.Context(), "alice")
			if err != nil || u.Held != held || u.MaxHeld != 2 || (u.FreeIn == 0) != free {
				t.Errorf("usage %+v, error %v; want %d of 2 held, free now: %t", u, err, held, free)
			}
		}

		one, two := acquire("one"), acquire("two")
		checkUsage(2, false)
		if wait := refusal("three", 2); wait > time.Minute {
			t.Errorf("with two requests under way the retry is after %v, want at most a minute", wait)
		}
		one.Release()
		checkUsage(2, true)
		three := acquire("three") // the idle session of "one" does not count and stays open
		checkUsage(2, false)
		refusal("four", 2)
		two.Release()
		three.Release()
		acquire("four").Release()
		checkUsage(2, false)
		// Twice as many as MaxPerUser are open now, and they stay open until their end.
		if wait := refusal("five", 4); wait < 50*time.Minute {
			t.Errorf("with four sessions open for an hour the retry is after %v, want at least 50 minutes", wait)
		}
		for _, model := range []string{"one", "two", "three", "four"} {
			acquire(model).Release()
		}
		if p.openCalls() != 4 {
			t.Errorf("%d opens for four models, want 4", p.openCalls())
		}
	})
}
