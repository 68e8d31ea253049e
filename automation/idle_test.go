package automation_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// A hundred idle replicas share one database, so each may cost it only little.
func TestRun_SendsAtMostThreeStatementsASecondWhileIdle(t *testing.T) {
	if testing.Short() {
		t.Skip("counts statements for ten seconds")
	}
	t.Parallel()
	const maxRate, window = 3, 10 * time.Second
	var proxy *pgtest.Proxy
	h := newHarness(t, setup{
		db: func(tb testing.TB) *sqlx.DB {
			tb.Helper()
			proxy = pgtest.NewProxy(tb, schematest.Database(tb))
			return pgtest.Open(tb, proxy.DSN())
		},
		config: func(c *automation.Config) {
			d := automation.DefaultConfig()
			c.FlagPollInterval, c.RolloutInterval, c.SweepInterval, c.CleanupInterval = d.FlagPollInterval, d.RolloutInterval, d.SweepInterval, d.CleanupInterval
		},
	})
	if err := h.Maintain(t.Context()); err != nil { // includes what is due only once in ten minutes
		t.Fatal(err)
	}
	// A busy machine makes replicas report slow answers, which costs statements: try again.
	var traffic pgtest.Traffic
	var rate float64
	for range 30 {
		proxy.TakeTraffic()
		start := time.Now()
		<-time.After(window)
		traffic = proxy.TakeTraffic()
		rate = float64(traffic.Statements) / time.Since(start).Seconds()
		if rate <= maxRate {
			break
		}
	}
	t.Logf("%.2f statements a second", rate)
	if rate <= maxRate && traffic.Statements > 0 {
		return
	}
	var text strings.Builder
	for _, query := range slices.Sorted(maps.Keys(traffic.Queries)) {
		fmt.Fprintf(&text, "\n%4d × %.150s", traffic.Queries[query], strings.Join(strings.Fields(query), " "))
	}
	t.Errorf("%.2f statements a second, want some and at most %d:%s", rate, maxRate, text.String())
}

// A chat needs no database if it follows another one of the same user and model on the same replica.
func TestForward_TakesNoRoundTripAfterAnotherChat(t *testing.T) {
	t.Parallel()
	var proxy *pgtest.Proxy
	h := newHarness(t, setup{
		db: func(tb testing.TB) *sqlx.DB {
			tb.Helper()
			proxy = pgtest.NewProxy(tb, schematest.Database(tb))
			return pgtest.Open(tb, proxy.DSN())
		},
		config: func(c *automation.Config) {
			c.SessionLinger = 2 * time.Second
			c.FlagPollInterval, c.RolloutInterval, c.SweepInterval, c.CleanupInterval = time.Minute, time.Minute, 15*time.Minute, time.Hour
		},
	})
	// Leases are renewed, settings are polled, and other replicas' needs are checked at times that
	// the test does not control, so one chat of many without a round trip is enough.
	h.until("a chat takes no round trip", func() bool {
		for range 2 {
			if a := h.do("POST", chatPath, "alice", chatBody("llama")); a.status != 200 {
				t.Fatalf("chat: status %d, body %s; want 200", a.status, a.body)
			}
			if traffic := proxy.TakeTraffic(); traffic.RoundTrips == 0 {
				return true
			}
		}
		return false
	})
	h.checkNode()
}
