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

func TestAcquire_OpensOnceAndReusesTheSession(t *testing.T) {
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
				t.Errorf("got session %s of %s until %v, want session %s for about an hour", c.SessionID(), c.ModelID(), c.EndsAt(), first)
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
					t.Errorf("session %s was given to two requests at once", c.SessionID())
				}
				served.Add(1)
				inUse.Delete(c.SessionID())
			})
		}
		wg.Wait()
		if s := n.Stats(); s.Opens < 1 || s.Opens > 4 || served.Load() != 64 {
			t.Errorf("%d opens, %d requests served; want 1 to 4 opens and 64 requests", s.Opens, served.Load())
		}
		checkInvariants(t, db, n.Stats())
	})
}

func TestAcquire_WaitsForASessionThatIsAboutToBeFree(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		s, p := startNode(t, proxyroutertest.Options{})
		reserved := make(chan struct{}, 100)
		o := testOptions()
		var clock, reservations atomic.Int64 // clock: milliseconds, one more at each call of Now
		o.Now = func() time.Time { return time.UnixMilli(clock.Add(1)) }
		o.ObserveSQL = func(name string, _, _ time.Duration, err error) {
			if name == "sessions.reserve" && err == nil {
				if reservations.Add(1) <= 4 { // without PrepareRelease the third would open a session
					clock.Add(600)
				}
				reserved <- struct{}{}
			}
		}
		m, _ := startManager(t, db, p, o)
		first, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		for len(reserved) > 0 {
			<-reserved
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
		for range 3 {
			<-reserved
		}
		if n := s.Stats().Opens; n != 1 {
			t.Errorf("%d opens while the session of the first request is about to be free, want 1", n)
		}
		first.Release()
		if c := <-second; c != nil {
			if c.SessionID() != first.SessionID() {
				t.Errorf("the second request got session %s, want %s", c.SessionID(), first.SessionID())
			}
			c.Release()
		}
		checkInvariants(t, db, s.Stats())
	})
}

func TestAcquire_SharesSessionsOnlyIfSharedIsSet(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for i, shared := range []bool{false, true} {
			n, client := startNode(t, proxyroutertest.Options{Seed: uint64(i + 1)})
			o := testOptions()
			o.Shared = shared
			m, stop := startManager(t, db, client, o)
			for _, user := range []string{"alice", "bob"} {
				c, err := m.Acquire(t.Context(), requestFor(user))
				if err != nil {
					t.Fatal(err)
				}
				c.Release()
			}
			if want := map[bool]int{false: 2, true: 1}[shared]; n.Stats().Opens != want {
				t.Errorf("with Shared %t: %d opens for two users, want %d", shared, n.Stats().Opens, want)
			}
			stop()
		}
	})
}

func TestRelease_IsIdempotentAndKeepsTheNextClaim(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		_, client := startNode(t, proxyroutertest.Options{})
		o := testOptions()
		o.MaxPerUser = 1
		m, _ := startManager(t, db, client, o)
		o.AcquireTimeout = 2 * time.Second
		impatient, _ := startManager(t, db, client, o)
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
		err = acquireError(func() (*session.Claim, error) { return impatient.Acquire(t.Context(), requestFor("alice")) })
		if u := (*session.UnavailableError)(nil); !errors.As(err, &u) || !errors.Is(err, session.ErrBusy) || u.RetryAfter < time.Second {
			t.Errorf("after a second Release of the first claim: got %v, want ErrBusy because the second claim is in use", err)
		}
	})
}

// acquireError acquires with an AcquireTimeout of seconds and returns its error. It tries again
// while that error only says that the machine is busy.
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
					c, err := m.Acquire(t.Context(), requestForModel("alice", proxyroutertest.ModelID(model)))
					if err != nil {
						t.Fatal(err)
					}
					c.Release()
				}
				_, err := m.Acquire(t.Context(), requestForModel("alice", proxyroutertest.ModelID("three")))
				b := (*session.BudgetError)(nil)
				if !errors.As(err, &b) || b.Limit != tc.limit || b.Max != 2 || b.RetryAfter > tc.retry+time.Minute || b.RetryAfter < tc.retry/2 {
					t.Errorf("got %v, want limit %s and a retry after nearly %v", err, tc.limit, tc.retry)
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
			t.Errorf("bob requests alice's session: got %v, want ErrNotYours", err)
		}
		if _, err := m.AcquireSession(t.Context(), "alice", "0xunknown"); !errors.Is(err, session.ErrUnmanaged) {
			t.Errorf("a session without a row: got %v, want ErrUnmanaged", err)
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
			t.Errorf("bob ends alice's session: got %v, want ErrUnmanaged", err)
		}
		if info, err := m.End(t.Context(), "alice", id); err != nil || !info.Ending {
			t.Errorf("alice ends her session: got %+v, %v; want one that is ending", info, err)
		}
		if _, err := m.AcquireSession(t.Context(), "alice", id); !errors.Is(err, session.ErrEnded) {
			t.Errorf("a session that was ended: got %v, want ErrEnded", err)
		}
		waitUntil(t, "the session is closed", func() bool { return countByState(t, db)["closed"] == 1 })
		if list, err := m.List(t.Context(), "alice"); err != nil || len(list) != 0 {
			t.Errorf("list after the end: %v, error %v; want none", list, err)
		}
	})
}

func TestAcquire_FailsAllWaitingRequestsOnARefusal(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{OpenLatency: 50 * time.Millisecond})
		n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Status: 500, Text: "no provider accepting session"})
		m, _ := startManager(t, db, client, testOptions())
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				_, err := m.Acquire(t.Context(), requestFor("alice"))
				if u := (*session.UnavailableError)(nil); !errors.As(err, &u) || !errors.Is(err, session.ErrNotOpened) {
					t.Errorf("got %v, want an UnavailableError with ErrNotOpened", err)
				}
			})
		}
		wg.Wait()
		if got := n.Stats().OpenRequests; got > 16 {
			t.Errorf("%d calls to open for 16 requests, want at most 16", got)
		}
		checkInvariants(t, db, n.Stats())
	})
}

func TestReconcile_AdoptsAnOpenOfUnknownOutcome(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, f := range map[string]proxyroutertest.Fault{
			"answered with 500 after the open": {Op: proxyroutertest.OpOpen, Times: 1, After: true, Status: 500, Text: "context deadline exceeded"},
			"the answer was cut off":           {Op: proxyroutertest.OpOpen, Times: 1, Mode: proxyroutertest.ModeCut},
			"the connection dropped after it":  {Op: proxyroutertest.OpOpen, Times: 1, After: true, Mode: proxyroutertest.ModeDrop},
			"the node hung after the open":     {Op: proxyroutertest.OpOpen, Times: 1, After: true, Mode: proxyroutertest.ModeHang},
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
					t.Errorf("%d opens from %d calls, want one of each", s.Opens, s.OpenRequests)
				}
				checkInvariants(t, db, n.Stats())
			})
		}
	})
}

func TestReconcile_GivesUpAnOpenThatIsNotFound(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{})
		n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: 500, Text: "something odd"})
		o := testOptions()
		o.ReconcileTimeout = 500 * time.Millisecond
		m, _ := startManager(t, db, client, o)
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) {
			t.Errorf("got %v, want ErrOpening, because the open may have succeeded", err)
		}
		waitUntil(t, "the first session is given up", func() bool { return countByState(t, db)["lost"] == 1 })
		use(t, m, "alice")
		if s, r := n.Stats(), countByState(t, db); s.Opens != 1 || r["lost"] != 1 || r["open"] != 1 {
			t.Errorf("%d opens, states %v; want the first session lost and the second open", s.Opens, r)
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
			t.Errorf("%d opens from %d calls, want 8 opens and at most one retry each", s.Opens, s.OpenRequests)
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
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		if r := countByState(t, db); r["failed"] != 1 {
			t.Errorf("states %v, want one failed intent", r)
		}
	})
}

func TestAcquire_LeavesNothingBehindWhenTheClientLeaves(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{OpenLatency: 300 * time.Millisecond})
		m, _ := startManager(t, db, client, testOptions())
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			waitUntil(t, "the node was asked to open a session", func() bool { return n.Stats().OpenRequests == 1 })
			cancel()
		}()
		if _, err := m.Acquire(ctx, requestFor("alice")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
		if n.Stats().Opens != 1 {
			t.Errorf("%d opens, want 1: the next request uses the open that was under way", n.Stats().Opens)
		}
		checkInvariants(t, db, n.Stats())
	})
}
