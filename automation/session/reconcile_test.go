package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// assignOtherSession adopts another session for all rows, as another replica's maintenance may do
// while an open is under way.
const assignOtherSession = `UPDATE automation_sessions SET session_id = '0xanother', state = 'open', ends_at = '2100-01-01 00:00:00.000', next_at = '2100-01-01 00:00:00.000',
	lease_token = NULL, lease_holder = NULL, lease_until = NULL`

func TestComplete_InsertsARowIfItsOwnHasAnotherSession(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onOpen: func(int) error {
			_, err := db.Exec(assignOtherSession)
			return err
		}}
		m, _ := startManager(t, db, p, testOptions())
		use(t, m, "alice")
		waitUntil(t, "both sessions have a row", func() bool { return countByState(t, db)["open"] == 2 })
		list, err := m.List(t.Context(), "alice")
		if err != nil || len(list) != 2 || list[0].SessionID != "0x1" || list[1].SessionID != "0xanother" {
			t.Errorf("alice has %+v, error %v; want 0x1 and 0xanother", list, err)
		}
	})
}

func TestOpen_AdoptsASessionThatACollidedCallOpened(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		p.onOpen = func(n int) error {
			p.add(session.ChainSession{ID: "0xmined", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[n-1].Duration)})
			return session.ErrWalletCollision
		}
		m, _ := startManager(t, db, p, testOptions())
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0xmined" {
			t.Errorf("got session %s, want 0xmined", c.SessionID())
		}
		c.Release()
		if p.openCalls() != 1 {
			t.Errorf("%d opens, want 1", p.openCalls())
		}
	})
}

// A refusal says nothing about the call before it, whose transaction may still be pending.
func TestOpen_AdoptsTheSessionOfACollidedCallWhoseRetryWasRefused(t *testing.T) {
	for name, refusal := range map[string]error{"refused": session.ErrNotOpened, "away": session.ErrUnavailable} {
		t.Run(name, func(t *testing.T) {
			onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
				p := &fakeNode{}
				p.onOpen = func(n int) error {
					if n == 1 {
						return session.ErrWalletCollision
					}
					p.add(session.ChainSession{ID: "0xmined", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[0].Duration)})
					return refusal
				}
				m, _ := startManager(t, db, p, testOptions())
				c, err := m.Acquire(t.Context(), requestFor("alice"))
				if err != nil {
					t.Fatal(err)
				}
				if c.SessionID() != "0xmined" || p.openCalls() != 2 {
					t.Errorf("got session %s after %d opens, want 0xmined after 2", c.SessionID(), p.openCalls())
				}
				c.Release()
			})
		})
	}
}

func TestMaintain_PausesClosesAfterACollision(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onClose: func(string) error { return session.ErrWalletCollision }}
		var seen eventLog
		o := testOptions()
		o.CloseAfter, o.Observe = time.Millisecond, seen.add
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		use(t, m, "bob")
		shiftEnds(t, db, 2*time.Hour)
		waitUntil(t, "closes have failed and no session is leased", func() bool {
			if err := m.Maintain(t.Context()); err != nil {
				t.Error(err)
			}
			var leased int
			if err := db.Get(&leased, `SELECT count(*) FROM automation_sessions WHERE lease_until IS NOT NULL`); err != nil {
				t.Error(err)
			}
			return p.closeCalls() > 0 && leased == 0
		})
		tried := p.closeCalls()
		shiftEnds(t, db, 2*time.Hour) // they are due again
		if err := m.Maintain(t.Context()); err != nil || p.closeCalls() != tried || tried == 0 {
			t.Errorf("%d closes, then %d, error %v; want no more in the minute after a collision", tried, p.closeCalls(), err)
		}
		if seen.count(session.Collided, "") != tried || seen.count(session.Closed, "failed") != tried {
			t.Errorf("events %v, want a collision and a failed close for each of %d closes", seen.events, tried)
		}
		use(t, m, "carol") // opens continue, one at a time
	})
}

func TestOpen_IsNotSentAfterItsLeaseIsLost(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o.Observe = func(e session.Event) {
			if e.Kind == session.Opened && e.Result == "abandoned" {
				cancel()
			}
		}
		o.SetFailpoint(func(name string) {
			if name != "after-intent" {
				return
			}
			if _, err := db.Exec(`UPDATE automation_sessions SET lease_token = 'stolen' WHERE state = 'opening'`); err != nil {
				t.Error(err)
			}
		})
		m, _ := startManager(t, db, p, o)
		if _, err := m.Acquire(ctx, requestFor("alice")); !errors.Is(err, context.Canceled) || p.openCalls() != 0 {
			t.Errorf("got %v after %d opens, want context.Canceled and no open", err, p.openCalls())
		}
	})
}

// Bob's open has reached the chain and is not answered yet. Alice's open, of the same
// model and duration, was cut off. She must not get his session.
func TestReconcile_LeavesTheSessionOfAnotherOpenAlone(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &slowNode{answer: make(chan struct{}), asked: make(chan struct{})}
		o := testOptions()
		o.ReconcileTimeout = 2 * time.Second
		m, _ := startManager(t, db, p, o)
		var wg sync.WaitGroup
		wg.Go(func() { use(t, m, "bob") })
		<-p.asked
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) {
			t.Errorf("alice got %v, want ErrOpening", err)
		}
		if r := countByState(t, db); r["open"] != 0 {
			t.Errorf("states %v, want no session adopted", r)
		}
		close(p.answer)
		wg.Wait()
		var owner string
		if err := db.Get(&owner, `SELECT owner_id FROM automation_sessions WHERE session_id = '0x1'`); err != nil || owner != "bob" {
			t.Errorf("bob's session belongs to %q, error %v", owner, err)
		}
	})
}

// slowNode opens the first session and answers after answer was closed. All other opens fail
// without effect.
type slowNode struct {
	fakeNode
	calls         atomic.Int64
	answer, asked chan struct{}
}

func (p *slowNode) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	if p.calls.Add(1) > 1 {
		return "", errors.New("cut")
	}
	id, err := p.fakeNode.OpenSession(ctx, r)
	close(p.asked)
	<-p.answer
	return id, err
}

// An idle session whose row another transaction has locked cannot be claimed now. Requests wait
// for it and open no other one.
func TestAcquire_WaitsForAnIdleSessionThatIsLocked(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sessions int
		set      string // SQL that changes the sessions, which are alice's
		acquire  func(t *testing.T, m *session.Manager) func() error
	}{
		"a session of the user": {1, "", func(t *testing.T, m *session.Manager) func() error {
			return func() error { use(t, m, "alice"); return nil }
		}},
		"a prewarmed session": {1, `UPDATE automation_sessions SET owner_id = '', user_id = '', charged_at = NULL`,
			func(t *testing.T, m *session.Manager) func() error {
				return func() error { use(t, m, "alice"); return nil }
			}},
		"a replacement": {2, "", func(t *testing.T, m *session.Manager) func() error {
			old, err := m.Acquire(t.Context(), requestFor("alice"))
			if err != nil {
				t.Fatal(err)
			}
			return func() error {
				defer old.Release()
				c, err := m.Replace(t.Context(), old, session.Replacement{})
				if err == nil {
					c.Release()
				}
				return err
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := postgres(t)
			p := &twoProviders{}
			openSessions(t, db, p, tt.sessions)
			if _, err := db.Exec(tt.set); err != nil {
				t.Fatal(err)
			}
			o := testOptions()
			begun := time.Now()
			o.Now = func() time.Time { return begun } // no time passes, so nobody waits longer than an open takes
			o.MaxReplacementsPerHour, o.MaxReplacementsPerHourTotal = 5, 5
			var reservations atomic.Int64
			o.ObserveSQL = countSQL(&reservations, "sessions.reserve")
			m, _ := startManager(t, db, p, o)
			acquire := tt.acquire(t, m)
			tx, err := db.BeginTxx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.Exec(`SELECT id FROM automation_sessions WHERE lease_token IS NULL FOR UPDATE`); err != nil {
				t.Fatal(err)
			}
			acquired := make(chan error)
			go func() { acquired <- acquire() }()
			waitUntil(t, "the request has tried to reserve twice", func() bool { return reservations.Load() >= 2 || p.openCalls() > tt.sessions })
			if err := tx.Rollback(); err != nil {
				t.Error(err)
			}
			if err := <-acquired; err != nil {
				t.Error(err)
			}
			if p.openCalls() != tt.sessions {
				t.Errorf("%d opens, want only the %d before the lock", p.openCalls(), tt.sessions)
			}
		})
	}
}

// openSessions opens one or two idle sessions for alice with a manager that it stops.
func openSessions(t *testing.T, db *sqlx.DB, p session.Provider, n int) {
	t.Helper()
	m, stop := startManager(t, db, p, testOptions())
	defer stop()
	for i := range n {
		r := requestFor("alice")
		if i > 0 {
			r.OmitProvider = "0xp" // so that the first session cannot serve it
		}
		c, err := m.Acquire(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
	}
}

// countSQL returns an Options.ObserveSQL that counts transactions by name.
func countSQL(n *atomic.Int64, counted string) func(string, time.Duration, time.Duration, error) {
	return func(name string, _, _ time.Duration, _ error) {
		if name == counted {
			n.Add(1)
		}
	}
}

// The wait for the database does not count as a request's use of its session. Otherwise a slow
// database would make another session look worthwhile.
func TestAcquire_OpensNoSessionBecauseTheDatabaseIsSlow(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		openSessions(t, db, p, 1)
		o := testOptions()
		o.Lease = time.Hour
		begun := time.Now()
		var clock, reservations atomic.Int64
		o.Now = func() time.Time { return begun.Add(time.Duration(clock.Load())) }
		o.ObserveSQL = func(name string, _, _ time.Duration, _ error) {
			switch name {
			case "sessions.claim":
				clock.Add(int64(10 * time.Second))
			case "sessions.reserve":
				reservations.Add(1)
			}
		}
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { use(t, m, "alice") })
		waitUntil(t, "the request has tried to reserve twice", func() bool { return reservations.Load() >= 2 || p.openCalls() > 1 })
		c.Release()
		wg.Wait()
		if p.openCalls() != 1 {
			t.Errorf("%d opens, want 1 that both requests use", p.openCalls())
		}
	})
}
