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

// A row that somebody has locked in psql costs neither its own lease nor, by
// making the heartbeat wait, those of all other requests.
func TestHeartbeat_SkipsALockedRowWithoutCallingItLost(t *testing.T) {
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
	leasedTo := func(c *session.Claim) (at time.Time) {
		t.Helper()
		if err := db.Get(&at, `SELECT lease_until FROM automation_sessions WHERE session_id = $1`, c.SessionID()); err != nil {
			t.Fatal(err)
		}
		return at
	}
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.Exec(`SELECT id FROM automation_sessions WHERE session_id = $1 FOR UPDATE`, locked.SessionID()); err != nil {
		t.Fatal(err)
	}
	before := leasedTo(free)
	waitUntil(t, "the other lease is extended", func() bool { return leasedTo(free).After(before) })
	if locked.Context().Err() != nil {
		t.Error("the lease on the locked row was given up at the first heartbeat")
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	before = leasedTo(locked)
	waitUntil(t, "the lease is extended again", func() bool { return leasedTo(locked).After(before) || locked.Context().Err() != nil })
	if free.Context().Err() != nil {
		t.Error("a locked row ended another request")
	}
	locked.Release()
	free.Release()
}

// Under a host's default of repeatable read every cap was twice as large.
func TestAcquire_KeepsBudgetsUnderAHostsIsolation(t *testing.T) {
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
			var ms []*session.Manager
			for range 3 {
				m, _ := startManager(t, db, p, o)
				ms = append(ms, m)
			}
			var wg sync.WaitGroup
			for i := range 24 {
				wg.Go(func() {
					c, err := acquireWithRetry(t, ms[i%3], requestForModel("alice", fmt.Sprint("model ", i)))
					if err == nil {
						c.Release()
					} else if b, ok := errors.AsType[*session.BudgetError](err); !ok || b.Limit != session.LimitHour {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if p.openCalls() != 3 {
				t.Errorf("%d opens with a limit of 3", p.openCalls())
			}
		})
	}
}

// Two replicas, one session, and twenty requests waiting in each: they come in
// turn, and are to be served in turn.
func TestAcquire_ServesReplicasInTheOrderInWhichRequestsCame(t *testing.T) {
	skipShort(t)
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 1
		o.Linger = 0 // a replica that lets a session linger may serve its own first, for two seconds at most
		a, _ := startManager(t, db, p, o)
		b, _ := startManager(t, db, p, o)
		first, err := a.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		const groups, perGroup = 4, 5
		var mu sync.Mutex
		var order []int // the groups as they were served
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
			waitUntil(t, "all of them wait", func() bool { return a.Waiting()+b.Waiting() == (group+1)*perGroup })
			if group < groups-1 {
				// Who comes within half a second of another may be served before them, and
				// a busy machine's database writes a place down late.
				<-time.After(2 * time.Second)
			}
		}
		first.Release()
		wg.Wait()
		if !slices.IsSorted(order) {
			t.Errorf("requests of four groups that came one after the other were served in the order %v", order)
		}
		if p.openCalls() != 1 {
			t.Errorf("%d opens", p.openCalls())
		}
	})
}

// Two replicas and endless load on one session: neither gets more than twice as
// many turns as the other.
func TestAcquire_SharesTurnsBetweenReplicas(t *testing.T) {
	skipShort(t)
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 1
		a, _ := startManager(t, db, p, o)
		b, _ := startManager(t, db, p, o)
		use(t, a, "alice")
		const turns = 60
		var mu sync.Mutex
		served := map[*session.Manager]int{}
		var wg sync.WaitGroup
		for _, m := range []*session.Manager{a, b} {
			for range map[*session.Manager]int{a: 12, b: 3}[m] { // four times as many requests here as there
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
						done := served[a]+served[b] >= turns
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
		// By the order in which they come, four of five turns are a's.
		if share := float64(served[a]) / float64(served[a]+served[b]); share < 0.6 || share > 0.9 {
			t.Errorf("turns %d : %d for 12 : 3 requests, want about 4 : 1 and at most a factor of two from it", served[a], served[b])
		}
		t.Logf("turns %d : %d for 12 : 3 requests", served[a], served[b])
	})
}
