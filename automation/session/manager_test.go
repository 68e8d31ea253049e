package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestAcquire_OpensOnceAndReuses(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{})
		m, _ := startManager(t, db, client, testOptions())
		var first string
		for range 5 {
			c, err := m.Acquire(t.Context(), requestFor("alice"))
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = c.SessionID()
			}
			if c.SessionID() != first || c.ModelID() != modelA || time.Until(c.EndsAt()) < 59*time.Minute {
				t.Errorf("got session %s of %s until %v, want %s again", c.SessionID(), c.ModelID(), c.EndsAt(), first)
			}
			c.Release()
		}
		if s := n.Stats(); s.Opens != 1 {
			t.Errorf("%d opens, want 1", s.Opens)
		}
		checkInvariants(t, db, n.Stats())
	})
}

func TestAcquire_GivesASessionToOneRequestAtATime(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{})
		m, _ := startManager(t, db, client, testOptions())
		var inUse sync.Map
		var served atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				c, err := m.Acquire(t.Context(), requestFor("alice"))
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Release()
				if _, taken := inUse.LoadOrStore(c.SessionID(), true); taken {
					t.Errorf("session %s is held twice", c.SessionID())
				}
				served.Add(1)
				inUse.Delete(c.SessionID())
			})
		}
		wg.Wait()
		if s := n.Stats(); s.Opens < 1 || s.Opens > 4 || served.Load() != 64 {
			t.Errorf("%d opens, %d served; want at most 4, and 64", s.Opens, served.Load())
		}
		checkInvariants(t, db, n.Stats())
	})
}

func TestAcquire_WaitsForASessionThatIsAboutToBeFree(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		s, p := startNode(t, proxyroutertest.Options{})
		asked := make(chan struct{}, 100)
		o := testOptions()
		var clock, looks atomic.Int64 // milliseconds, one each time that somebody looks
		o.Now = func() time.Time { return time.UnixMilli(clock.Add(1)) }
		o.ObserveSQL = func(name string, _, _ time.Duration, err error) {
			if name == "sessions.reserve" && err == nil {
				if looks.Add(1) <= 4 { // so that nothing but the announcement keeps the third look from paying
					clock.Add(600)
				}
				asked <- struct{}{}
			}
		}
		m, _ := startManager(t, db, p, o)
		first, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		for len(asked) > 0 {
			<-asked
		}
		first.PrepareRelease()
		second := make(chan *session.Claim)
		go func() {
			c, err := m.Acquire(t.Context(), requestFor("alice"))
			if err != nil {
				t.Error(err)
			}
			second <- c
		}()
		for range 3 { // an open takes no time here, so the third look would be worth one
			<-asked
		}
		if n := s.Stats().Opens; n != 1 {
			t.Errorf("%d opens while the first request's session is about to be free, want 1", n)
		}
		first.Release()
		if c := <-second; c != nil {
			if c.SessionID() != first.SessionID() {
				t.Error("the second request has another session")
			}
			c.Release()
		}
		checkInvariants(t, db, s.Stats())
	})
}

func TestAcquire_SharesSessionsOnlyWhenShared(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for i, shared := range []bool{false, true} {
			n, client := startNode(t, proxyroutertest.Options{Seed: uint64(i + 1)})
			o := testOptions()
			o.Shared = shared
			m, stop := startManager(t, db, client, o)
			for _, user := range []string{"alice", "bob"} {
				c, err := m.Acquire(t.Context(), session.Request{UserID: user, ModelID: proxyroutertest.ModelID("m"), Duration: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				c.Release()
			}
			if want := map[bool]int{false: 2, true: 1}[shared]; n.Stats().Opens != want {
				t.Errorf("shared %v: %d opens, want %d", shared, n.Stats().Opens, want)
			}
			stop()
		}
	})
}

func TestRelease_WorksOnceAndFreesNoOtherClaim(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		_, client := startNode(t, proxyroutertest.Options{})
		o := testOptions()
		o.MaxPerUser = 1
		m, _ := startManager(t, db, client, o)
		o.AcquireTimeout = 2 * time.Second
		hasty, _ := startManager(t, db, client, o)
		first, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		first.Release()
		second, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		defer second.Release()
		first.Release()
		if _, err := db.Exec(`UPDATE automation_sessions SET lease_token = NULL, lease_holder = NULL, lease_until = NULL WHERE lease_token = 'stolen'`); err != nil {
			t.Fatal(err)
		}
		err = acquireError(func() (*session.Claim, error) { return hasty.Acquire(t.Context(), requestFor("alice")) })
		if u := (*session.UnavailableError)(nil); !errors.As(err, &u) || !errors.Is(err, session.ErrBusy) || u.RetryAfter < time.Second {
			t.Errorf("a late release freed another's claim: got %v, want busy", err)
		}
	})
}

// acquireError acquires with an AcquireTimeout of seconds until the database of a busy
// machine has answered within it, and returns why nothing was given.
func acquireError(acquire func() (*session.Claim, error)) error {
	for {
		c, err := acquire()
		if err == nil {
			c.Release()
		}
		if !errors.Is(err, sqldb.ErrUnavailable) && !errors.Is(err, session.ErrOpening) {
			return err
		}
	}
}

func TestAcquire_EnforcesLimitsWithRetryAfter(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, tc := range map[string]struct {
			set   func(*session.Options)
			limit string
			retry time.Duration
		}{
			"opens an hour":   {func(o *session.Options) { o.OpensPerHour = 2 }, session.LimitHour, time.Hour},
			"opens a day":     {func(o *session.Options) { o.OpensPerDay = 2 }, session.LimitDay, 24 * time.Hour},
			"sessions a user": {func(o *session.Options) { o.MaxPerUser = 1 }, session.LimitSessions, time.Hour},
			"sessions in all": {func(o *session.Options) { o.MaxOpen = 2; o.MaxPerUser = 0 }, session.LimitTotal, time.Hour},
		} {
			t.Run(name, func(t *testing.T) {
				if _, err := db.Exec(`DELETE FROM automation_sessions`); err != nil {
					t.Fatal(err)
				}
				n, client := startNode(t, proxyroutertest.Options{})
				o := testOptions()
				tc.set(&o)
				m, stop := startManager(t, db, client, o)
				defer stop()
				for _, model := range []string{"one", "two", "one"} {
					c, err := m.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: proxyroutertest.ModelID(model), Duration: time.Hour})
					if err != nil {
						t.Fatal(err)
					}
					c.Release()
				}
				_, err := m.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: proxyroutertest.ModelID("three"), Duration: time.Hour})
				b := (*session.BudgetError)(nil)
				if !errors.As(err, &b) || b.Limit != tc.limit || b.Max != 2 || b.RetryAfter > tc.retry+time.Minute || b.RetryAfter < tc.retry/2 {
					t.Errorf("got %v, want limit %s and a retry of nearly %v", err, tc.limit, tc.retry)
				}
				if n.Stats().Opens != 2 {
					t.Errorf("%d opens, want 2", n.Stats().Opens)
				}
			})
		}
	})
}

func TestAcquireSession_ServesTheOwnerOnly(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		_, client := startNode(t, proxyroutertest.Options{})
		m, _ := startManager(t, db, client, testOptions())
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		id := session.ID(c.SessionID())
		if _, err := m.AcquireSession(t.Context(), "bob", id); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("another's session: got %v", err)
		}
		if _, err := m.AcquireSession(t.Context(), "alice", "0xunknown"); !errors.Is(err, session.ErrUnmanaged) {
			t.Errorf("a session that is not ours: got %v", err)
		}
		got := make(chan *session.Claim)
		go func() {
			c, err := m.AcquireSession(t.Context(), "alice", id)
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		c.Release()
		if c := <-got; c != nil {
			c.Release()
		}
		if _, err := m.End(t.Context(), "bob", id); !errors.Is(err, session.ErrUnmanaged) {
			t.Errorf("bob ended alice's session: %v", err)
		}
		if info, err := m.End(t.Context(), "alice", id); err != nil || !info.Ending {
			t.Errorf("end: %+v, %v", info, err)
		}
		if _, err := m.AcquireSession(t.Context(), "alice", id); !errors.Is(err, session.ErrEnded) {
			t.Errorf("a session that was ended: got %v", err)
		}
		waitUntil(t, "the session is closed", func() bool { return countByState(t, db)["closed"] == 1 })
		if list, err := m.List(t.Context(), "alice"); err != nil || len(list) != 0 {
			t.Errorf("list after the end: %v, %v", list, err)
		}
	})
}

func TestAcquire_FailsAllWaitersOnARefusal(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{OpenLatency: 50 * time.Millisecond})
		n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Status: 500, Text: "no provider accepting session"})
		m, _ := startManager(t, db, client, testOptions())
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				_, err := m.Acquire(t.Context(), requestFor("alice"))
				if u := (*session.UnavailableError)(nil); !errors.As(err, &u) || !errors.Is(err, session.ErrNotOpened) {
					t.Errorf("got %v, want unavailable because nothing was opened", err)
				}
			})
		}
		wg.Wait()
		if got := n.Stats().OpenRequests; got > 16 {
			t.Errorf("%d opens asked for by 16 requests", got)
		}
		checkInvariants(t, db, n.Stats())
	})
}

func TestReconcile_AdoptsAnOpenOfUnknownOutcome(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, f := range map[string]proxyroutertest.Fault{
			"answered with 500 after it opened": {Op: proxyroutertest.OpOpen, Times: 1, After: true, Status: 500, Text: "context deadline exceeded"},
			"the answer was cut":                {Op: proxyroutertest.OpOpen, Times: 1, Mode: proxyroutertest.ModeCut},
			"the connection dropped after":      {Op: proxyroutertest.OpOpen, Times: 1, After: true, Mode: proxyroutertest.ModeDrop},
			"it hung after it opened":           {Op: proxyroutertest.OpOpen, Times: 1, After: true, Mode: proxyroutertest.ModeHang},
		} {
			t.Run(name, func(t *testing.T) {
				if _, err := db.Exec(`DELETE FROM automation_sessions`); err != nil {
					t.Fatal(err)
				}
				n := proxyroutertest.NewServer(t, proxyroutertest.Options{})
				n.Inject(f)
				openTimeout := testTimeout
				if f.Mode == proxyroutertest.ModeHang {
					skipShort(t)
					openTimeout = 3 * time.Second
				}
				m, stop := startManager(t, db, newClientWithTimeout(t, n, openTimeout), testOptions())
				defer stop()
				c, err := m.Acquire(t.Context(), requestFor("alice"))
				if err != nil {
					t.Fatal(err)
				}
				c.Release()
				if s := n.Stats(); s.Opens != 1 || s.OpenRequests != 1 {
					t.Errorf("%d opens of %d asked for, want one", s.Opens, s.OpenRequests)
				}
				checkInvariants(t, db, n.Stats())
			})
		}
	})
}

func TestReconcile_GivesUpAnOpenThatCameToNothing(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{})
		n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: 500, Text: "something odd"})
		o := testOptions()
		o.ReconcileTimeout = 500 * time.Millisecond
		m, _ := startManager(t, db, client, o)
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) {
			t.Errorf("got %v, want that the request is told to come back: it may have paid", err)
		}
		waitUntil(t, "it is given up", func() bool { return countByState(t, db)["lost"] == 1 })
		use(t, m, "alice")
		if s, r := n.Stats(), countByState(t, db); s.Opens != 1 || r["lost"] != 1 || r["open"] != 1 {
			t.Errorf("%d opens, rows %v; want the first given up and the second used", s.Opens, r)
		}
	})
}

func TestOpen_RetriesACollisionOnce(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{CollisionWindow: 50 * time.Millisecond, OpenLatency: 60 * time.Millisecond})
		m, _ := startManager(t, db, client, testOptions())
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c, err := m.Acquire(t.Context(), requestFor(string(rune('a'+i))))
				if err != nil {
					t.Error(err)
					return
				}
				c.Release()
			})
		}
		wg.Wait()
		s := n.Stats()
		if s.Opens != 8 || s.OpenRequests > 16 {
			t.Errorf("%d opens of %d asked for, want 8 and at most one retry each", s.Opens, s.OpenRequests)
		}
		checkInvariants(t, db, s)
	})
}

func TestAcquire_FailsAtOnceWhenTheNodeIsDown(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{})
		n.Close()
		m, _ := startManager(t, db, client, testOptions())
		_, err := m.Acquire(t.Context(), requestFor("alice"))
		if !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("got %v, want that the node is unavailable", err)
		}
		if r := countByState(t, db); r["failed"] != 1 {
			t.Errorf("rows %v, want one failed intent", r)
		}
	})
}

func TestAcquire_LeavesNothingBehindWhenTheClientLeaves(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{OpenLatency: 300 * time.Millisecond})
		m, _ := startManager(t, db, client, testOptions())
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			waitUntil(t, "the node is opening", func() bool { return n.Stats().OpenRequests == 1 })
			cancel()
		}()
		if _, err := m.Acquire(ctx, requestFor("alice")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that it was cancelled", err)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
		if n.Stats().Opens != 1 {
			t.Errorf("%d opens, want the one that was under way to serve the next request", n.Stats().Opens)
		}
		checkInvariants(t, db, n.Stats())
	})
}
