package session_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// A user with one request at a time needs one session, however a load balancer spreads the
// requests over the replicas, however far away the database is, and even if it stalls for a
// second. The managers assume long requests and quick opens, so that a request which finds no
// session opens one at once.
func TestLinger_CostsASequentialUserNoSession(t *testing.T) {
	skipShort(t)
	t.Parallel()
	const replicas = 5
	orders := map[string]func(i int) int{
		"round robin":          func(i int) int { return i % replicas },
		"at random":            func(int) int { return rand.IntN(replicas) },
		"four to each in turn": func(i int) int { return i / 4 % replicas },
	}
	for name, tt := range map[string]struct {
		linger, latency time.Duration
		stalls          bool
		requests        int
	}{
		"no lingering":           {0, 0, false, 40},
		"a near database":        {300 * time.Millisecond, 0, false, 120},
		"long lingering":         {2 * time.Second, 0, false, 120},
		"a database 10 ms away":  {300 * time.Millisecond, 10 * time.Millisecond, false, 40},
		"a database 100 ms away": {300 * time.Millisecond, 100 * time.Millisecond, false, 6},
		"a database that stalls": {300 * time.Millisecond, 0, true, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := schematest.Database(t)
			proxy := pgtest.NewProxy(t, dsn)
			p := &fakeNode{}
			o := testOptions()
			o.Linger = tt.linger
			managers := make([]*session.Manager, replicas)
			for i := range managers {
				pool, err := sqlx.Open("postgres", proxy.DSN())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = pool.Close() })
				managers[i], _ = startManager(t, pool, p, o)
			}
			proxy.SetLatency(tt.latency)
			for order, replica := range orders {
				var took []time.Duration
				for i := range tt.requests {
					m := managers[replica(i)]
					m.SetTypical(time.Hour, time.Nanosecond)
					stall := tt.stalls && i%8 == 7
					if stall {
						proxy.Freeze()
						time.AfterFunc(time.Second, proxy.Thaw)
					}
					begun := time.Now()
					c, err := m.Acquire(t.Context(), requestFor(order))
					if err != nil {
						t.Fatal(err)
					}
					if !stall {
						took = append(took, time.Since(begun))
					}
					c.Release()
				}
				slices.Sort(took)
				t.Logf("%s: a request waits for its session p50 %v, p90 %v, at most %v", order, took[len(took)/2].Round(time.Microsecond),
					took[len(took)*9/10].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
			}
			if n := p.openCalls(); n != len(orders) {
				t.Errorf("%d opens for %d users with one request at a time, want one each", n, len(orders))
			}
		})
	}
}

// maxReservations bounds how often a request asks while a session that another replica uses may be
// lingering there. After the first few times it asks again after 135 ms at the earliest.
const maxReservations = 9

// withAndWithoutLinger runs a test with lingering on and off, each on a database of its own.
func withAndWithoutLinger(t *testing.T, test func(t *testing.T, db *sqlx.DB, linger time.Duration)) {
	t.Helper()
	for name, linger := range map[string]time.Duration{"lingering": 300 * time.Millisecond, "off": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, postgres(t), linger)
		})
	}
}

func TestLinger_DelaysASecondSessionBriefly(t *testing.T) {
	t.Parallel()
	withAndWithoutLinger(t, func(t *testing.T, db *sqlx.DB, linger time.Duration) {
		p := &fakeNode{}
		o := testOptions()
		o.Linger = linger
		var reservations atomic.Int64
		o.ObserveSQL = countSQL(&reservations, "sessions.reserve")
		var beforeOpen atomic.Int64
		o.SetFailpoint(func(name string) {
			if name == "after-intent" {
				beforeOpen.Store(reservations.Load())
			}
		})
		m, _ := startManager(t, db, p, o)
		m.SetTypical(time.Hour, time.Nanosecond)
		first, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		reservations.Store(0)
		second, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		if n := beforeOpen.Load(); p.openCalls() != 2 || n > maxReservations { // the wait queue's own test covers lingering off
			t.Errorf("the second session was opened after %d reservations, %d opens; want at most %d reservations and 2 opens", n, p.openCalls(), maxReservations)
		}
		first.Release()
		second.Release()
	})
}

func TestLinger_DelaysTheLimitBriefly(t *testing.T) {
	t.Parallel()
	withAndWithoutLinger(t, func(t *testing.T, db *sqlx.DB, linger time.Duration) {
		o := testOptions()
		o.Linger, o.MaxPerUser = linger, 1
		var reservations atomic.Int64
		o.ObserveSQL = countSQL(&reservations, "sessions.reserve")
		m, _ := startManager(t, db, &fakeNode{}, o)
		c, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		reservations.Store(0)
		_, err = m.Acquire(t.Context(), requestForModel("anna", proxyroutertest.ModelID("other")))
		b, ok := errors.AsType[*session.BudgetError](err)
		if n := reservations.Load(); !ok || b.Limit != session.LimitSessions || b.RetryAfter < time.Second || n > maxReservations || linger == 0 && n != 1 {
			t.Errorf("after %d reservations: error %v; want the limit of sessions after at most %d, after 1 without lingering", n, err, maxReservations)
		}
		c.Release()
	})
}

// While a release takes long, here because the row is locked, other requests of the replica wait
// up to five seconds for the session and open no other one.
func TestAcquire_WaitsForASessionThatIsBeingReleased(t *testing.T) {
	t.Parallel()
	withAndWithoutLinger(t, func(t *testing.T, db *sqlx.DB, linger time.Duration) {
		p := &fakeNode{}
		o := testOptions()
		o.Linger, o.Lease = linger, time.Hour
		begun := time.Now()
		var clock atomic.Int64
		o.Now = func() time.Time { return begun.Add(time.Duration(clock.Load())) }
		reserved := make(chan struct{}, 100)
		o.ObserveSQL = func(name string, _, _ time.Duration, err error) {
			if name == "sessions.reserve" && err == nil {
				clock.Add(int64(time.Second))
				reserved <- struct{}{}
			}
		}
		m, _ := startManager(t, db, p, o)
		first, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		tx, err := db.BeginTxx(context.WithoutCancel(t.Context()), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.Exec(`SELECT id FROM automation_sessions FOR UPDATE`); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(first.Release)
		waitUntil(t, "the session is being released", func() bool { return m.Releasing(requestFor("anna")) == 1 })
		m.SetTypical(time.Hour, time.Nanosecond)
		for len(reserved) > 0 {
			<-reserved
		}
		wg.Go(func() { use(t, m, "anna") })
		// Each reservation advances the clock by a second.
		waitUntil(t, "the second request has tried to reserve four times", func() bool { return len(reserved) >= 4 || p.openCalls() > 1 })
		if n := p.openCalls(); n != 1 {
			t.Errorf("%d opens while a session was being released, want only the first", n)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	})
}
