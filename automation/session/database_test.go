package session_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// An operator may lock a row in psql. That must not delay the heartbeat of all leases,
// and the request on the locked row must continue while its lease lasts.
func TestHeartbeat_SkipsALockedRowAndKeepsItsLease(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db := postgres(t)
	p := &fakeNode{}
	o := testOptions()
	o.Lease = 20 * time.Second
	m, _ := startManager(t, db, p, o)
	claim := func(user string) *session.Claim {
		t.Helper()
		c, err := m.Acquire(t.Context(), requestFor(user))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	locked, free := claim("alice"), claim("bob")
	leaseEnd := func(c *session.Claim) (end time.Time) {
		t.Helper()
		if err := db.Get(&end, `SELECT lease_until FROM automation_sessions WHERE session_id = $1`, c.SessionID()); err != nil {
			t.Fatal(err)
		}
		return end
	}
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.Exec(`SELECT id FROM automation_sessions WHERE session_id = $1 FOR UPDATE`, locked.SessionID()); err != nil {
		t.Fatal(err)
	}
	before := leaseEnd(free)
	waitUntil(t, "the lease on the row that is not locked is extended", func() bool { return leaseEnd(free).After(before) })
	if locked.Context().Err() != nil {
		t.Error("the request on the locked row was ended at the first heartbeat")
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	before = leaseEnd(locked)
	waitUntil(t, "the lease on the row that was locked is extended", func() bool { return leaseEnd(locked).After(before) || locked.Context().Err() != nil })
	if free.Context().Err() != nil {
		t.Error("a locked row ended the request on another row")
	}
	locked.Release()
	free.Release()
}

// A host's database may have a stricter isolation level by default. Two transactions
// that count from their own snapshots would exceed each limit together.
func TestAcquire_KeepsLimitsUnderAStricterDefaultIsolation(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			db := postgres(t)
			if _, err := db.Exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET default_transaction_isolation = %%L', current_database(), '%s'); END $$`, isolation)); err != nil {
				t.Fatal(err)
			}
			db.SetMaxIdleConns(0) // new connections have the new default
			p := &fakeNode{}
			o := testOptions()
			o.MaxPerUser, o.OpensPerHour = 0, 3
			var managers []*session.Manager
			for range 3 {
				m, _ := startManager(t, db, p, o)
				managers = append(managers, m)
			}
			var wg sync.WaitGroup
			for i := range 24 {
				wg.Go(func() {
					c, err := acquireWithRetry(t.Context(), managers[i%3], requestForModel("alice", fmt.Sprint("model ", i)))
					if err == nil {
						c.Release()
					} else if b, ok := errors.AsType[*session.BudgetError](err); !ok || b.Limit != session.LimitHour {
						t.Errorf("request %d: %v, want a session or the hourly limit", i, err)
					}
				})
			}
			wg.Wait()
			if p.openCalls() != 3 {
				t.Errorf("%d opens, want the 3 that the limit allows", p.openCalls())
			}
		})
	}
}

// Two replicas share one session. Four groups of five requests arrive, each group at
// the other replica, and must be served in that order.
func TestAcquire_ServesReplicasInOrderOfArrival(t *testing.T) {
	skipShort(t)
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 1
		o.Linger = 0 // with lingering a replica may serve its own requests first, for two seconds at most
		a, _ := startManager(t, db, p, o)
		b, _ := startManager(t, db, p, o)
		first, err := a.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		const groups, perGroup = 4, 5
		var mu sync.Mutex
		var order []int // group of each request, in the order they were served
		var wg sync.WaitGroup
		for group := range groups {
			m := []*session.Manager{a, b}[group%2]
			for range perGroup {
				wg.Go(func() {
					c, err := m.Acquire(t.Context(), requestFor("alice"))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					order = append(order, group)
					mu.Unlock()
					<-time.After(20 * time.Millisecond) // a request's work
					c.Release()
				})
			}
			waitUntil(t, "all requests of the group wait", func() bool { return a.Waiting()+b.Waiting() == (group+1)*perGroup })
			if group < groups-1 {
				// The order is not kept between requests that arrive within half a second, and
				// on a busy machine the database records an arrival late.
				<-time.After(2 * time.Second)
			}
		}
		first.Release()
		wg.Wait()
		if !slices.IsSorted(order) {
			t.Errorf("requests of the groups 0 to 3 were served in the order %v, want it ascending", order)
		}
		if p.openCalls() != 1 {
			t.Errorf("%d opens, want 1", p.openCalls())
		}
	})
}

// Two replicas use one session without a pause, one with 12 concurrent requests and
// one with 3. Their shares must be within a factor of two of 4 : 1.
func TestAcquire_SharesASessionBetweenReplicas(t *testing.T) {
	skipShort(t)
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 1
		a, _ := startManager(t, db, p, o)
		b, _ := startManager(t, db, p, o)
		use(t, a, "alice")
		const requests = 60 // in both replicas
		var mu sync.Mutex
		served := map[*session.Manager]int{}
		var wg sync.WaitGroup
		for _, m := range []*session.Manager{a, b} {
			for range map[*session.Manager]int{a: 12, b: 3}[m] {
				wg.Go(func() {
					for {
						c, err := m.Acquire(t.Context(), requestFor("alice"))
						if err != nil {
							t.Error(err)
							return
						}
						<-time.After(100 * time.Millisecond) // a request's work
						mu.Lock()
						served[m]++
						done := served[a]+served[b] >= requests
						mu.Unlock()
						c.Release()
						if done {
							return
						}
					}
				})
			}
		}
		wg.Wait()
		// In order of arrival, four of five requests that are served are a's.
		if share := float64(served[a]) / float64(served[a]+served[b]); share < 0.6 || share > 0.9 {
			t.Errorf("served %d : %d with 12 : 3 concurrent requests, want between 1.5 : 1 and 9 : 1", served[a], served[b])
		}
		t.Logf("served %d : %d with 12 : 3 concurrent requests", served[a], served[b])
	})
}
