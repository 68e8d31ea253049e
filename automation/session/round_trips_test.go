package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// TestAcquire_TakesFewRoundTrips counts on the wire how often a request waits for the database.
func TestAcquire_TakesFewRoundTrips(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, driver, option string
		maxWarm, maxCold     int // round trips of a request that finds a session, and of one that opens one
	}{
		{"lib/pq", "postgres", "", 2, 25},
		{"lib/pq with binary_parameters", "postgres", "&binary_parameters=yes", 2, 25},
		{"pgx", "pgx", "", 2, 25},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dsn := schematest.Database(t)
			proxy := pgtest.NewProxy(t, dsn)
			db, err := sqlx.Open(tt.driver, proxy.DSN()+tt.option)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			db.SetMaxOpenConns(1) // pgx prepares each statement once on each connection
			_, provider := startNode(t, proxyroutertest.Options{})
			o := testOptions()
			o.Interval, o.Lease, o.Linger = time.Hour, time.Hour, 0 // only what the requests need
			o.OpensPerHour, o.OpensPerDay = 10, 50
			m, stop := startManager(t, db, provider, o)
			use(t, m, "anna")
			use(t, m, "anna")
			proxy.TakeTraffic()
			const chats = 10
			for range chats {
				use(t, m, "anna")
			}
			warm := proxy.TakeTraffic()
			stop()
			checkRoundTrips(t, "a warm chat", warm, chats, tt.maxWarm)

			// A lingering lease is released after some time and some chats, so this needs
			// several attempts on a busy machine.
			o.Linger = 2 * time.Second
			m, stop = startManager(t, db, provider, o)
			waitUntil(t, "a chat that follows another one takes no round trip", func() bool {
				use(t, m, "anna")
				proxy.TakeTraffic()
				use(t, m, "anna")
				return proxy.TakeTraffic().RoundTrips == 0
			})
			stop()
			o.Linger = 0

			// A request asks again while its open takes long. That happens on a busy machine,
			// so the best of several attempts counts.
			var cold pgtest.Traffic
			for i := range 100 {
				m, stop := startManager(t, db, provider, o)
				proxy.TakeTraffic()
				use(t, m, fmt.Sprint("user-", i))
				stop() // waits for the work in the background
				if got := proxy.TakeTraffic(); i == 0 || got.RoundTrips < cold.RoundTrips {
					cold = got
				}
				if i > 0 && cold.RoundTrips <= tt.maxCold {
					break
				}
			}
			checkRoundTrips(t, "a cold chat", cold, 1, tt.maxCold)
		})
	}
}

// checkRoundTrips fails the test if the chats took more than maxPerChat round trips on average. The
// failure lists the statements.
func checkRoundTrips(t *testing.T, what string, got pgtest.Traffic, chats, maxPerChat int) {
	t.Helper()
	t.Logf("%s: %.1f round trips, %.1f statements", what, float64(got.RoundTrips)/float64(chats), float64(got.Statements)/float64(chats))
	if got.RoundTrips <= maxPerChat*chats {
		return
	}
	t.Errorf("%s takes %.1f round trips, want at most %d:\n%s", what, float64(got.RoundTrips)/float64(chats), maxPerChat, got.FormatQueries())
}
