package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// fakeNode is a provider in memory. Tests make its calls fail, and change what the chain has.
type fakeNode struct {
	mu       sync.Mutex
	opens    []session.OpenRequest // also those that failed
	closes   []string              // also those that failed
	onOpen   func(n int) error     // its error fails the nth open, counted from 1; called with mu held
	onClose  func(id string) error // its error fails the close; called with mu held
	chain    map[string]session.ChainSession
	listErr  error         // of WalletSessions
	getErr   error         // of GetSession
	duration time.Duration // of all sessions, whatever is requested; zero: as requested
}

func (p *fakeNode) OpenSession(_ context.Context, r session.OpenRequest) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opens = append(p.opens, r)
	if p.onOpen != nil {
		if err := p.onOpen(len(p.opens)); err != nil {
			return "", err
		}
	}
	id := fmt.Sprintf("0x%d", len(p.opens))
	duration := r.Duration
	if p.duration > 0 {
		duration = p.duration
	}
	p.add(session.ChainSession{ID: id, ModelID: r.ModelID, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(duration)})
	return id, nil
}

// add adds a session to the chain. The caller holds the lock once requests are under way.
func (p *fakeNode) add(c session.ChainSession) {
	if p.chain == nil {
		p.chain = map[string]session.ChainSession{}
	}
	p.chain[c.ID] = c
}

func (p *fakeNode) CloseSession(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closes = append(p.closes, id)
	if p.onClose != nil {
		return p.onClose(id)
	}
	return nil
}

func (p *fakeNode) GetSession(_ context.Context, id string) (session.ChainSession, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.getErr != nil {
		return session.ChainSession{}, p.getErr
	}
	c, ok := p.chain[id]
	if !ok {
		return c, session.ErrSessionNotFound
	}
	return c, nil
}

func (p *fakeNode) WalletSessions(context.Context, time.Time) (list []session.ChainSession, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.chain {
		list = append(list, c)
	}
	return list, p.listErr
}

// withLock calls fn, which may change the node, with mu held.
func (p *fakeNode) withLock(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

// openCalls returns how many opens were requested, failed ones included.
func (p *fakeNode) openCalls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.opens)
}

// closeCalls returns how many closes were requested, failed ones included.
func (p *fakeNode) closeCalls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.closes)
}

// shiftEnds moves the ends of all sessions into the past, as if that much time had passed.
func shiftEnds(t *testing.T, db *sqlx.DB, by time.Duration) {
	t.Helper()
	q := `UPDATE automation_sessions SET ends_at = ends_at - make_interval(secs => $1), next_at = next_at - make_interval(secs => $1)`
	var args = []any{by.Seconds()}
	if db.DriverName() == "sqlite" {
		q = `UPDATE automation_sessions SET ends_at = strftime('%Y-%m-%d %H:%M:%f', ends_at, $1), next_at = strftime('%Y-%m-%d %H:%M:%f', next_at, $1)`
		args = []any{fmt.Sprintf("-%d seconds", int(by.Seconds()))}
	}
	if _, err := db.Exec(q, args...); err != nil {
		t.Fatal(err)
	}
}

// endAllIn makes all sessions end after the duration left, and be closed a minute later.
func endAllIn(t *testing.T, db *sqlx.DB, left time.Duration) {
	t.Helper()
	q := `UPDATE automation_sessions SET ends_at = now() + make_interval(secs => $1), next_at = now() + make_interval(secs => $1 + 60)`
	var args = []any{left.Seconds()}
	if db.DriverName() == "sqlite" {
		q = `UPDATE automation_sessions SET ends_at = strftime('%Y-%m-%d %H:%M:%f', 'now', $1), next_at = strftime('%Y-%m-%d %H:%M:%f', 'now', $2)`
		args = []any{fmt.Sprintf("+%d seconds", int(left.Seconds())), fmt.Sprintf("+%d seconds", int(left.Seconds())+60)}
	}
	if _, err := db.Exec(q, args...); err != nil {
		t.Fatal(err)
	}
}

func TestMaintain_RenewsASessionInUseBeforeItsEnd(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 1
		o.Renew = func(_ context.Context, user string) (time.Duration, bool) {
			return 2 * time.Hour, user == "alice"
		}
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		use(t, m, "bob") // Renew returns false for him
		endAllIn(t, db, 45*time.Second)
		m.Trigger()
		waitUntil(t, "a successor of alice's session was requested", func() bool { return p.openCalls() == 3 })
		p.withLock(func() {
			if d := p.opens[2].Duration; d < 2*time.Hour || d > 2*time.Hour+time.Minute {
				t.Errorf("the successor lasts %v, want the 2 h that Renew returned", p.opens[2].Duration)
			}
		})
		waitUntil(t, "the successor is open", func() bool { return countByState(t, db)["open"] == 3 })
		if err := m.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
		old, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		next, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if old.SessionID() != "0x1" || next.SessionID() != "0x3" || p.openCalls() != 3 {
			t.Errorf("alice got session %s, then %s, after %d opens; want the one that ends first, then its successor", old.SessionID(), next.SessionID(), p.openCalls())
		}
		old.Release()
		next.Release()
	})
}

func TestAcquire_SkipsASessionTooNearItsEnd(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 1
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		endAllIn(t, db, 20*time.Second)
		if _, err := m.AcquireSession(t.Context(), "alice", "0x1"); !errors.Is(err, session.ErrEnded) {
			t.Errorf("by its id: %v, want ErrEnded", err)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0x2" {
			t.Errorf("got session %s, want a new one, because 0x1 is about to end", c.SessionID())
		}
		c.Release()
	})
}

func TestMaintain_PausesPrewarmingAfterARefusal(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		n, client := startNode(t, proxyroutertest.Options{})
		n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Status: 500, Text: "no provider accepting session"})
		o := testOptions()
		var rounds atomic.Int64
		o.Prewarm = func() []session.Prewarm {
			rounds.Add(1)
			return []session.Prewarm{{ModelID: modelA, Duration: time.Hour}}
		}
		startManager(t, db, client, o)
		waitUntil(t, "an open for prewarming has failed", func() bool { return countByState(t, db)["failed"] > 0 })
		before := rounds.Load()
		waitUntil(t, "three more rounds have run", func() bool { return rounds.Load() > before+3 })
		if r := countByState(t, db); r["failed"] != 1 {
			t.Errorf("states %v, want only one failed open", r)
		}
	})
}

func TestAcquire_TakesAPrewarmedSession(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.OpensPerHour = 1
		o.Prewarm = func() []session.Prewarm { return []session.Prewarm{{ModelID: modelA, Duration: time.Hour}} }
		a, _ := startManager(t, db, p, o)
		b, _ := startManager(t, db, p, o)
		waitUntil(t, "a prewarmed session is open", func() bool { return countByState(t, db)["open"] == 1 })
		for _, m := range []*session.Manager{a, b, a, b} {
			if err := m.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if p.openCalls() != 1 {
			t.Fatalf("%d opens, want only one idle session", p.openCalls())
		}
		c, err := b.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0x1" {
			t.Errorf("got session %s, want the prewarmed one", c.SessionID())
		}
		waitUntil(t, "the next prewarmed session is open", func() bool { return countByState(t, db)["open"] == 2 })
		c.Release()
		if _, err := a.AcquireSession(t.Context(), "bob", "0x1"); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("bob requests alice's session by its id: %v, want ErrNotYours", err)
		}
		_, err = a.Acquire(t.Context(), requestForModel("alice", "another"))
		if b, ok := errors.AsType[*session.BudgetError](err); !ok || b.Limit != session.LimitHour {
			t.Errorf("got %v, want the hourly limit: the prewarmed session counts as alice's open", err)
		}
	})
}

func TestMaintain_RetriesACloseUntilTheSessionIsClosed(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onClose: func(string) error { return errors.New("gas") }}
		o := testOptions()
		o.CloseAfter = time.Millisecond
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		shiftEnds(t, db, 2*time.Hour)
		m.Trigger()
		waitUntil(t, "a close has failed", func() bool { return countByState(t, db)["ending"] == 1 && p.closeCalls() == 1 })
		waitUntil(t, "the session is no longer leased", func() bool {
			var leased int
			q := `SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL`
			return db.Get(&leased, q) == nil && leased == 0
		})
		var pause float64 // seconds
		q := `SELECT EXTRACT(EPOCH FROM next_at - now()) FROM automation_sessions`
		if db.DriverName() == "sqlite" {
			q = `SELECT (julianday(next_at) - julianday('now')) * 86400.0 FROM automation_sessions`
		}
		if err := db.Get(&pause, q); err != nil || pause > 40 {
			t.Errorf("the next close is in %.0f s, error %v; want about 30 s", pause, err)
		}
		// The node may close an ended session itself, and then refuses to close it again.
		p.withLock(func() {
			c := p.chain["0x1"]
			c.ClosedAt = time.Now()
			p.chain["0x1"] = c
		})
		shiftEnds(t, db, time.Minute)
		m.Trigger()
		waitUntil(t, "the session is closed", func() bool { return countByState(t, db)["closed"] == 1 })
	})
}

func TestMaintain_RecordsWhetherASessionWasEverUsed(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		o := testOptions()
		o.CloseAfter = time.Millisecond
		m, _ := startManager(t, db, &fakeNode{}, o)
		use(t, m, "alice")
		use(t, m, "bob")
		if _, err := db.ExecContext(t.Context(), `UPDATE automation_sessions SET last_used_at = NULL WHERE user_id = 'bob'`); err != nil {
			t.Fatal(err)
		}
		shiftEnds(t, db, 2*time.Hour)
		m.Trigger()
		waitUntil(t, "both sessions are closed", func() bool { return countByState(t, db)["closed"] == 2 })
		var reasons []string
		if err := db.SelectContext(t.Context(), &reasons, `SELECT reason FROM automation_sessions ORDER BY user_id`); err != nil || !slices.Equal(reasons, []string{"ended", "unused"}) {
			t.Errorf("reasons %v, error %v; want ended, unused", reasons, err)
		}
	})
}

func TestEnd_ClosesASessionInUseOnlyAfterItsRelease(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		m, _ := startManager(t, db, p, testOptions())
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := m.End(t.Context(), "alice", session.ID(c.SessionID())); err != nil || !info.InUse || !info.Ending {
			t.Errorf("End returns %+v, %v; want a session in use that is ending", info, err)
		}
		if err := m.Maintain(t.Context()); err != nil || p.closeCalls() != 0 {
			t.Errorf("%d closes while a request uses the session, want none; error %v", p.closeCalls(), err)
		}
		c.Release()
		waitUntil(t, "the session is closed", func() bool { return countByState(t, db)["closed"] == 1 })
	})
}

func TestClaim_ExpiredSessionServesNobodyAndIsNotClosedEarly(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser, o.CloseAfter = 1, time.Millisecond
		m, _ := startManager(t, db, p, o)
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.MarkExpired(); err != nil {
			t.Error(err)
		}
		next, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if next.SessionID() == c.SessionID() || next.Provider() != "0xp" {
			t.Errorf("got session %s of %s, want another than %s, of 0xp", next.SessionID(), next.Provider(), c.SessionID())
		}
		next.Release()
		c.Release()
		if err := m.Maintain(t.Context()); err != nil || p.closeCalls() != 0 {
			t.Errorf("%d closes before the session's end on the chain, want none; error %v", p.closeCalls(), err)
		}
	})
}

func TestEraseUser_RemovesTheUserID(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for _, shared := range []bool{false, true} {
			if _, err := db.Exec(`DELETE FROM automation_sessions`); err != nil {
				t.Fatal(err)
			}
			p := &fakeNode{}
			o := testOptions()
			o.Shared = shared
			m, stop := startManager(t, db, p, o)
			use(t, m, "alice")
			for range 2 {
				if err := m.EraseUser(t.Context(), "alice"); err != nil {
					t.Error(err)
				}
			}
			var n int
			if err := db.Get(&n, `SELECT count(*) FROM automation_sessions WHERE owner_id = 'alice' OR user_id = 'alice'`); err != nil || n != 0 {
				t.Errorf("%d rows still name the erased user, error %v; want none", n, err)
			}
			use(t, m, "bob")
			if want := map[bool]int{false: 2, true: 1}[shared]; p.openCalls() != want {
				t.Errorf("shared %v: %d opens, want %d", shared, p.openCalls(), want)
			}
			stop()
		}
	})
}

func TestAcquire_KeepsOwnersWhenSharingIsSwitchedOff(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.Shared = true
		m, stop := startManager(t, db, p, o)
		use(t, m, "alice")
		if c, err := m.AcquireSession(t.Context(), "bob", "0x1"); err != nil {
			t.Errorf("bob requests a shared session by its id: %v", err)
		} else {
			c.Release()
		}
		stop()
		o.Shared = false
		m, _ = startManager(t, db, p, o)
		if _, err := m.AcquireSession(t.Context(), "bob", "0x1"); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("bob requests alice's session by its id: %v, want ErrNotYours", err)
		}
		if c, err := m.AcquireSession(t.Context(), "alice", "0x1"); err != nil {
			t.Errorf("alice requests her session by its id: %v", err)
		} else {
			c.Release()
		}
		use(t, m, "bob")
		if p.openCalls() != 2 {
			t.Errorf("%d opens, want 2, because bob cannot use alice's session", p.openCalls())
		}
	})
}

func TestReconcile_AdoptsAnEndedSessionWithoutServingIt(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		p.onOpen = func(n int) error {
			if n > 1 {
				return nil
			}
			p.add(session.ChainSession{ID: "0xorphan", ModelID: modelA, OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[0].Duration), ClosedAt: time.Now().Add(-time.Second)})
			return errors.New("time-out")
		}
		o := testOptions()
		o.CloseAfter = time.Millisecond
		m, _ := startManager(t, db, p, o)
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) {
			t.Errorf("the request that caused the open got %v, want ErrOpening", err)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0x2" {
			t.Errorf("got session %s, want 0x2", c.SessionID())
		}
		c.Release()
		waitUntil(t, "the orphan's row is closed", func() bool { r := countByState(t, db); return r["closed"] == 1 && r["open"] == 1 })
	})
}

func TestMaintain_VerifiesAnEstimatedEndBeforeAClose(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{getErr: errors.New("slow")}
		o := testOptions()
		o.CloseAfter = time.Millisecond
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		shiftEnds(t, db, 2*time.Hour)
		p.withLock(func() { p.getErr = nil })
		m.Trigger()
		waitUntil(t, "the row has the end of the chain", func() bool {
			list, err := m.List(t.Context(), "alice")
			return err == nil && len(list) == 1 && time.Until(list[0].EndsAt) > 50*time.Minute
		})
		if p.closeCalls() != 0 {
			t.Error("the session was closed before its end on the chain")
		}
	})
}

func TestAcquire_FailsAtOnceWhileAnUnknownOpenCannotBeLookedUp(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onOpen: func(int) error { return errors.New("cut") }, listErr: errors.New("away")}
		a, _ := startManager(t, db, p, testOptions())
		b, _ := startManager(t, db, p, testOptions())
		for _, m := range []*session.Manager{a, b} {
			_, err := m.Acquire(t.Context(), requestFor("alice"))
			if u, ok := errors.AsType[*session.UnavailableError](err); !ok || !errors.Is(err, session.ErrUnavailable) || u.RetryAfter != 5*time.Second {
				t.Errorf("got %v, want ErrUnavailable with a retry after 5 s", err)
			}
		}
		if p.openCalls() != 1 {
			t.Errorf("%d opens while the outcome of the first is unknown, want 1", p.openCalls())
		}
		p.withLock(func() {
			p.listErr = nil
			p.add(session.ChainSession{ID: "0xfound", ModelID: modelA, OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[0].Duration)})
		})
		waitUntil(t, "the session is adopted", func() bool { return countByState(t, db)["open"] == 1 })
		use(t, a, "alice")
	})
}

func TestOpen_LeavesASecondCollisionToTheReconciler(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onOpen: func(n int) error {
			if n <= 2 {
				return fmt.Errorf("%w: already known", session.ErrWalletCollision)
			}
			return nil
		}}
		o := testOptions()
		o.ReconcileTimeout = 500 * time.Millisecond
		m, _ := startManager(t, db, p, o)
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) || p.openCalls() != 2 {
			t.Errorf("got %v after %d opens, want ErrOpening after one retry", err, p.openCalls())
		}
		waitUntil(t, "the first session is given up", func() bool { return countByState(t, db)["lost"] == 1 })
		use(t, m, "alice")
		if r := countByState(t, db); p.openCalls() != 3 || r["lost"] != 1 || r["open"] != 1 {
			t.Errorf("%d opens, states %v; want a third open after the first session was given up", p.openCalls(), r)
		}
	})
}

// acquireWithRetry acquires again if the database of a busy machine did not answer in time.
func acquireWithRetry(ctx context.Context, m *session.Manager, r session.Request) (*session.Claim, error) {
	for {
		c, err := m.Acquire(ctx, r)
		if !errors.Is(err, sqldb.ErrUnavailable) || ctx.Err() != nil {
			return c, err
		}
	}
}

func TestAcquire_EnforcesLimitsUnderConcurrency(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, tc := range map[string]struct {
			set      func(*session.Options)
			limit    string
			minOpens int64 // of at most 4
		}{
			"an hour": {func(o *session.Options) { o.OpensPerHour = 4 }, session.LimitHour, 4},
			"a day":   {func(o *session.Options) { o.OpensPerDay = 4 }, session.LimitDay, 4},
			// Two in use, and up to two more because a new session is idle until it is claimed.
			"at once":  {func(o *session.Options) { o.MaxPerUser = 2 }, session.LimitSessions, 2},
			"over all": {func(o *session.Options) { o.MaxOpen = 4 }, session.LimitTotal, 4},
		} {
			t.Run(name, func(t *testing.T) {
				if _, err := db.Exec(`DELETE FROM automation_sessions`); err != nil {
					t.Fatal(err)
				}
				p := &fakeNode{}
				o := testOptions()
				o.MaxPerUser = 0
				tc.set(&o)
				var managers []*session.Manager
				for range 3 {
					m, stop := startManager(t, db, p, o)
					defer stop()
					managers = append(managers, m)
				}
				var wg sync.WaitGroup
				var refused atomic.Int64
				served := make(chan *session.Claim, 24)
				for i := range 24 {
					wg.Go(func() {
						c, err := acquireWithRetry(t.Context(), managers[i%3], requestForModel("alice", fmt.Sprint("model ", i)))
						if b, ok := errors.AsType[*session.BudgetError](err); ok && b.Limit == tc.limit {
							refused.Add(1)
						} else if err == nil {
							served <- c // in use until all have asked
						} else {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				close(served)
				n := len(served)
				for c := range served {
					c.Release()
				}
				if opened := int64(p.openCalls()); opened < tc.minOpens || opened > 4 || int64(n) > opened || int64(n)+refused.Load() != 24 {
					t.Errorf("%d opens, %d requests served and %d refused; want %d to 4 opens, and 24 requests served or refused", opened, n, refused.Load(), tc.minOpens)
				}
			})
		}
	})
}

func TestAcquire_ReportsTheLimitThatLastsLongest(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		o := testOptions()
		o.MaxPerUser, o.OpensPerDay = 1, 2
		m, _ := startManager(t, db, &fakeNode{}, o)
		use(t, m, "alice")
		c, err := m.Acquire(t.Context(), requestForModel("alice", "one"))
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
		_, err = m.Acquire(t.Context(), requestForModel("alice", "another"))
		if b, ok := errors.AsType[*session.BudgetError](err); !ok || b.Limit != session.LimitDay || b.RetryAfter < 23*time.Hour || b.Error() == "" {
			t.Errorf("got %v, want the daily limit with a retry after 23 h or more", err)
		}
	})
}

func TestRun_DrainsRequestsAndEndsThoseThatTakeTooLong(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.DrainTimeout = 200 * time.Millisecond
		m, stop := startManager(t, db, p, o)
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		stopWatching := context.AfterFunc(c.Context(), func() {
			if !errors.Is(context.Cause(c.Context()), session.ErrNotRunning) {
				t.Errorf("the request was ended with %v, want ErrNotRunning", context.Cause(c.Context()))
			}
			c.Release()
		})
		defer stopWatching()
		waiting := make(chan error)
		go func() {
			_, err := m.AcquireSession(t.Context(), "alice", session.ID(c.SessionID()))
			waiting <- err
		}()
		stop()
		if err := <-waiting; !errors.Is(err, session.ErrNotRunning) {
			t.Errorf("a waiting request got %v, want ErrNotRunning", err)
		}
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrNotRunning) {
			t.Errorf("a request after the stop got %v, want ErrNotRunning", err)
		}
		var leased int
		if err := db.Get(&leased, `SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL`); err != nil || leased != 0 {
			t.Errorf("%d rows are leased after the stop, want none; error %v", leased, err)
		}
		if m.Run(t.Context()) == nil {
			t.Error("a second Run returns no error")
		}
	})
}

func TestRun_StartsAndStopsManyTimes(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		for i := range 20 {
			m, stop := startManager(t, db, p, testOptions())
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					c, err := m.Acquire(t.Context(), requestFor(fmt.Sprint("user ", i%3)))
					switch {
					case err == nil:
						c.Release()
					case !errors.Is(err, session.ErrNotRunning):
						t.Error(err)
					}
				})
			}
			stop()
			wg.Wait()
		}
		if n := len(p.chain); n > 12 {
			t.Errorf("%d sessions for three users who may have four each", n)
		}
		var leased int
		if err := db.Get(&leased, `SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL`); err != nil || leased != 0 {
			t.Errorf("%d rows are leased after the last stop, want none; error %v", leased, err)
		}
	})
}

func TestNew_ReportsEveryInvalidOption(t *testing.T) {
	_, err := session.New(nil, nil, session.Options{Lease: time.Millisecond, Margin: -1, MaxPerUser: -1, OpensPerDay: -2})
	for _, name := range []string{"Lease", "Margin", "MaxPerUser", "OpensPerDay"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+name) {
			t.Errorf("error %v does not name Options.%s", err, name)
		}
	}
}

func TestAcquire_RejectsAnIncompleteRequest(t *testing.T) {
	n, client := startNode(t, proxyroutertest.Options{})
	m, _ := startManager(t, schematest.SQLite(t), client, testOptions())
	for _, r := range []session.Request{{ModelID: "m", Duration: time.Hour}, {UserID: "u", Duration: time.Hour}, {UserID: "u", ModelID: "m"}} {
		if c, err := m.Acquire(t.Context(), r); c != nil || err == nil {
			t.Errorf("the request %+v got a session or no error", r)
		}
	}
	if n.Stats().OpenRequests != 0 {
		t.Error("the node was asked to open a session")
	}
}
