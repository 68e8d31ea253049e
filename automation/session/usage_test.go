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

func TestUsage_SaysWhatTheLimitsLeave(t *testing.T) {
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
			t.Error(diff)
		}
		acquire := func(model string) error {
			c, err := m.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: proxyroutertest.ModelID(model), Duration: time.Hour})
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
			t.Errorf("%+v after two opens", got)
		}
		// What it says and what an open is told agree.
		refused, ok := errors.AsType[*session.BudgetError](acquire("gull"))
		if !ok {
			t.Fatal("a third open within the hour was allowed")
		}
		if d := got.FreeIn - refused.RetryAfter; d < -time.Second || d > time.Minute || got.FreeIn > time.Hour {
			t.Errorf("free in %v, and an open is told to come back after %v", got.FreeIn, refused.RetryAfter)
		}
		if diff := cmp.Diff(empty, usage("bob")); diff != "" {
			t.Errorf("another user: %s", diff)
		}
	})
}

// What counts towards the places of a user: sessions in use of any model, and
// idle ones of the model that is asked for.
func TestAcquire_IdleSessionsOfOtherModelsGiveWay(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 2
		m, _ := startManager(t, db, p, o)
		acquire := func(model string) *session.Claim {
			t.Helper()
			c, err := m.Acquire(t.Context(), requestForModel("alice", model))
			if err != nil {
				t.Fatalf("%s: %v", model, err)
			}
			return c
		}
		refused := func(model string, most int) time.Duration {
			t.Helper()
			_, err := m.Acquire(t.Context(), requestForModel("alice", model))
			b, ok := errors.AsType[*session.BudgetError](err)
			if !ok || b.Limit != session.LimitSessions || b.Max != most {
				t.Fatalf("%s: %v, want the limit of %d", model, err, most)
			}
			return b.RetryAfter
		}
		usage := func(held int, free bool) {
			t.Helper()
			u, err := m.Usage(t.Context(), "alice")
			if err != nil || u.Held != held || u.MaxHeld != 2 || (u.FreeIn == 0) != free {
				t.Errorf("%+v, %v; want %d of 2 and free %v", u, err, held, free)
			}
		}

		one, two := acquire("one"), acquire("two")
		usage(2, false)
		if wait := refused("three", 2); wait > time.Minute {
			t.Errorf("with two requests under way she is to wait %v", wait)
		}
		one.Release()
		usage(2, true)
		three := acquire("three") // "one" gives way, and is kept
		usage(2, false)
		refused("four", 2)
		two.Release()
		three.Release()
		acquire("four").Release()
		usage(2, false)
		// As many again as she may hold are open now, and stay so until their end.
		if wait := refused("five", 4); wait < 50*time.Minute {
			t.Errorf("with four sessions open for an hour she is to wait %v", wait)
		}
		for _, model := range []string{"one", "two", "three", "four"} {
			acquire(model).Release()
		}
		if p.openCalls() != 4 {
			t.Errorf("%d opens for four models", p.openCalls())
		}
	})
}
