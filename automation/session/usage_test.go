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
	each(t, func(t *testing.T, db *sqlx.DB) {
		_, client := node(t, proxyroutertest.Options{})
		o := quick()
		o.OpensPerHour, o.OpensPerDay = 2, 50
		m, _ := start(t, db, client, o)
		usage := func(user string) session.Usage {
			t.Helper()
			u, err := m.Usage(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		empty := session.Usage{MaxHeld: 8, MaxOpensHour: 2, MaxOpensDay: 50}
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
