package automation_test

import (
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// newProxiedHarness returns a harness with a proxy between its pool and the database, which counts
// statements and round trips.
func newProxiedHarness(t *testing.T, config func(*automation.Config)) (*harness, *pgtest.Proxy) {
	t.Helper()
	proxy := pgtest.NewProxy(t, schematest.Database(t))
	db := func(tb testing.TB) *sqlx.DB {
		tb.Helper()
		return pgtest.Open(tb, proxy.DSN())
	}
	return newHarness(t, setup{db: db, config: config}), proxy
}

// A hundred idle replicas share one database, so each may cost it only little.
func TestRun_SendsAtMostThreeStatementsASecondWhileIdle(t *testing.T) {
	if testing.Short() {
		t.Skip("counts statements for ten seconds")
	}
	t.Parallel()
	const maxRate, window = 3, 10 * time.Second
	h, proxy := newProxiedHarness(t, func(c *automation.Config) {
		d := automation.DefaultConfig()
		c.FlagPollInterval, c.RolloutInterval, c.SweepInterval, c.CleanupInterval = d.FlagPollInterval, d.RolloutInterval, d.SweepInterval, d.CleanupInterval
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
	t.Errorf("%.2f statements a second, want some and at most %d:\n%s", rate, maxRate, traffic.FormatQueries())
}

// A chat needs no database if it follows another one of the same user and model on the same replica.
func TestForward_TakesNoRoundTripAfterAnotherChat(t *testing.T) {
	t.Parallel()
	h, proxy := newProxiedHarness(t, func(c *automation.Config) {
		c.SessionLinger = 2 * time.Second
		c.FlagPollInterval, c.RolloutInterval, c.SweepInterval, c.CleanupInterval = time.Minute, time.Minute, 15*time.Minute, time.Hour
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
