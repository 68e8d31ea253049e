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

// A user whose requests come one after the other needs one session, however a load balancer
// spreads them over the replicas, how far the database is, and if it stalls for a second.
// Requests take long here and opens no time, so whoever finds no session pays at once.
func TestLinger_CostsASequentialUserNoSession(t *testing.T) {
	skipShort(t)
	t.Parallel()
	const replicas = 5
	orders := map[string]func(i int) int{
		"round robin":             func(i int) int { return i % replicas },
		"at random":               func(int) int { return rand.IntN(replicas) },
		"first, and then another": func(i int) int { return i / 4 % replicas },
	}
	for name, tt := range map[string]struct {
		linger, latency time.Duration
		stalls          bool
		requests        int
	}{
		"off":                  {0, 0, false, 40},
		"near":                 {300 * time.Millisecond, 0, false, 120},
		"near, long lingering": {2 * time.Second, 0, false, 120},
		"10 ms away":           {300 * time.Millisecond, 10 * time.Millisecond, false, 40},
		"100 ms away":          {300 * time.Millisecond, 100 * time.Millisecond, false, 6},
		"stalling":             {300 * time.Millisecond, 0, true, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := schematest.Database(t)
			migrated(t, pgtest.Open(t, dsn))
			proxy := pgtest.NewProxy(t, dsn)
			p := &fakeNode{}
			o := testOptions()
			o.Linger = tt.linger
			ms := make([]*session.Manager, replicas)
			for i := range ms {
				pool, err := sqlx.Open("postgres", proxy.DSN())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = pool.Close() })
				ms[i], _ = startManager(t, pool, p, o)
			}
			proxy.SetLatency(tt.latency)
			for order, replica := range orders {
				var took []time.Duration
				for i := range tt.requests {
					m := ms[replica(i)]
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
				t.Logf("%s: a request waits %v for its session, one in ten %v, the slowest %v", order, took[len(took)/2].Round(time.Microsecond),
					took[len(took)*9/10].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
			}
			if n := p.openCalls(); n != len(orders) {
				t.Errorf("%d sessions were paid for %d users whose requests come one after the other", n, len(orders))
			}
		})
	}
}

// countReservations counts the reservations of a manager's requests.
func countReservations(o *session.Options) *atomic.Int64 {
	var n atomic.Int64
	o.ObserveSQL = func(name string, _, _ time.Duration, _ error) {
		if name == "sessions.reserve" {
			n.Add(1)
		}
	}
	return &n
}

// maxReservations is how often a request asks within the time for which a session in use may linger
// elsewhere; each ask after the first few comes after 135 ms at least.
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

func TestLinger_DelaysASecondSessionByAFewAsks(t *testing.T) {
	t.Parallel()
	withAndWithoutLinger(t, func(t *testing.T, db *sqlx.DB, linger time.Duration) {
		p := &fakeNode{}
		o := testOptions()
		o.Linger = linger
		asked := countReservations(&o)
		var untilPaid atomic.Int64
		o.SetFailpoint(func(name string) {
			if name == "after-intent" {
				untilPaid.Store(asked.Load())
			}
		})
		m, _ := startManager(t, db, p, o)
		m.SetTypical(time.Hour, time.Nanosecond)
		first, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		asked.Store(0)
		second, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		if n := untilPaid.Load(); p.openCalls() != 2 || n > maxReservations { // that nothing is early with linger off is a test of the queue
			t.Errorf("the second session was opened after %d asks (%d opens)", n, p.openCalls())
		}
		first.Release()
		second.Release()
	})
}

func TestLinger_DelaysTheLimitByAFewAsks(t *testing.T) {
	t.Parallel()
	withAndWithoutLinger(t, func(t *testing.T, db *sqlx.DB, linger time.Duration) {
		o := testOptions()
		o.Linger, o.MaxPerUser = linger, 1
		asked := countReservations(&o)
		m, _ := startManager(t, db, &fakeNode{}, o)
		c, err := m.Acquire(t.Context(), requestFor("anna"))
		if err != nil {
			t.Fatal(err)
		}
		asked.Store(0)
		_, err = m.Acquire(t.Context(), requestForModel("anna", proxyroutertest.ModelID("other")))
		b, ok := errors.AsType[*session.BudgetError](err)
		if n := asked.Load(); !ok || b.Limit != session.LimitSessions || b.RetryAfter < time.Second || n > maxReservations || linger == 0 && n != 1 {
			t.Errorf("after %d asks: %v, want the limit of sessions", n, err)
		}
		c.Release()
	})
}

// A release that the database does not take at once, here because the row is locked, keeps
// others from paying for five seconds, in the replica that makes it.
func TestAcquire_WaitsForASessionThatIsBeingReleased(t *testing.T) {
	t.Parallel()
	withAndWithoutLinger(t, func(t *testing.T, db *sqlx.DB, linger time.Duration) {
		p := &fakeNode{}
		o := testOptions()
		o.Linger, o.Lease = linger, time.Hour
		begun := time.Now()
		var clock atomic.Int64
		o.Now = func() time.Time { return begun.Add(time.Duration(clock.Load())) }
		asked := make(chan struct{}, 100)
		o.ObserveSQL = func(name string, _, _ time.Duration, err error) {
			if name == "sessions.reserve" && err == nil {
				clock.Add(int64(time.Second))
				asked <- struct{}{}
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
		waitUntil(t, "it is being released", func() bool { return m.Releasing(requestFor("anna")) == 1 })
		m.SetTypical(time.Hour, time.Nanosecond)
		for len(asked) > 0 {
			<-asked
		}
		wg.Go(func() { use(t, m, "anna") })
		// Three seconds and more have passed before the fourth.
		waitUntil(t, "it has asked four times", func() bool { return len(asked) >= 4 || p.openCalls() > 1 })
		if n := p.openCalls(); n != 1 {
			t.Errorf("%d sessions were opened while one was being released, want 1", n)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	})
}
