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

// fakeNode is a provider whose sessions are what a test says.
type fakeNode struct {
	mu       sync.Mutex
	opens    []session.OpenRequest
	closes   []string
	onOpen   func(n int) (string, error)
	onClose  func(id string) error
	chain    map[string]session.ChainSession
	listErr  error // of WalletSessions
	getErr   error // of GetSession
	duration time.Duration
}

func (p *fakeNode) OpenSession(_ context.Context, r session.OpenRequest) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opens = append(p.opens, r)
	if p.onOpen != nil {
		if id, err := p.onOpen(len(p.opens)); id == "" {
			return "", err
		}
	}
	id := fmt.Sprintf("0x%d", len(p.opens))
	lasts := r.Duration
	if p.duration > 0 {
		lasts = p.duration
	}
	p.add(session.ChainSession{ID: id, ModelID: r.ModelID, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(lasts)})
	return id, nil
}

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

// withLock changes the node while it is in use.
func (p *fakeNode) withLock(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func (p *fakeNode) openCalls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.opens)
}

func (p *fakeNode) closeCalls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.closes)
}

// shiftEnds moves the ends of all sessions, as if time had passed.
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

// endAllIn makes all sessions end in so long, and be closed a minute later.
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
		var asked atomic.Value
		o.Renew = func(_ context.Context, user string) (time.Duration, bool) {
			asked.Store(user)
			return 2 * time.Hour, user == "alice"
		}
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		use(t, m, "bob") // does not want one
		endAllIn(t, db, 45*time.Second)
		m.Trigger()
		waitUntil(t, "there is a successor", func() bool { return p.openCalls() == 3 })
		p.withLock(func() {
			if d := p.opens[2].Duration; d < 2*time.Hour || d > 2*time.Hour+time.Minute {
				t.Errorf("a successor of %v, want the duration that the user has now", p.opens[2].Duration)
			}
		})
		waitUntil(t, "it is open", func() bool { return countByState(t, db)["open"] == 3 })
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
			t.Errorf("got %s, then %s, after %d opens; want the one that ends first, then its successor", old.SessionID(), next.SessionID(), p.openCalls())
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
			t.Errorf("by name: %v, want that it has ended", err)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0x2" {
			t.Errorf("got %s, want another than the one that ends", c.SessionID())
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
		waitUntil(t, "one has failed", func() bool { return countByState(t, db)["failed"] > 0 })
		seen := rounds.Load()
		waitUntil(t, "there were more rounds", func() bool { return rounds.Load() > seen+3 })
		if r := countByState(t, db); r["failed"] != 1 {
			t.Errorf("rows %v, want one failed open", r)
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
		waitUntil(t, "one is ready", func() bool { return countByState(t, db)["open"] == 1 })
		for _, m := range []*session.Manager{a, b, a, b} {
			if err := m.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if p.openCalls() != 1 {
			t.Fatalf("%d opens, want one idle session and no more", p.openCalls())
		}
		c, err := b.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0x1" {
			t.Errorf("got %s, want the one that was ready", c.SessionID())
		}
		waitUntil(t, "the next is ready", func() bool { return countByState(t, db)["open"] == 2 })
		c.Release()
		if _, err := a.AcquireSession(t.Context(), "bob", "0x1"); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("bob claimed alice's session by its name: %v", err)
		}
		_, err = a.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: "another", Duration: time.Hour})
		if b, ok := errors.AsType[*session.BudgetError](err); !ok || b.Limit != session.LimitHour {
			t.Errorf("what was taken ready counts as an open of hers: got %v", err)
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
		waitUntil(t, "it was tried", func() bool { return countByState(t, db)["ending"] == 1 && p.closeCalls() == 1 })
		var pause float64
		waitUntil(t, "it is put back", func() bool {
			var leased int
			q := `SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL`
			return db.Get(&leased, q) == nil && leased == 0
		})
		q := `SELECT EXTRACT(EPOCH FROM next_at - now()) FROM automation_sessions`
		if db.DriverName() == "sqlite" {
			q = `SELECT (julianday(next_at) - julianday('now')) * 86400.0 FROM automation_sessions`
		}
		if err := db.Get(&pause, q); err != nil || pause > 40 {
			t.Errorf("the next try is in %.0f s (%v), want about 30", pause, err)
		}
		// The node closes what has ended itself, and then refuses.
		p.withLock(func() {
			c := p.chain["0x1"]
			c.ClosedAt = time.Now()
			p.chain["0x1"] = c
		})
		shiftEnds(t, db, time.Minute)
		m.Trigger()
		waitUntil(t, "it is closed", func() bool { return countByState(t, db)["closed"] == 1 })
	})
}

func TestMaintain_NotesWhetherASessionWasEverUsed(t *testing.T) {
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
		waitUntil(t, "they are closed", func() bool { return countByState(t, db)["closed"] == 2 })
		var reasons []string
		if err := db.SelectContext(t.Context(), &reasons, `SELECT reason FROM automation_sessions ORDER BY user_id`); err != nil || !slices.Equal(reasons, []string{"ended", "unused"}) {
			t.Errorf("reasons %v, error %v", reasons, err)
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
			t.Errorf("end: %+v, %v", info, err)
		}
		if err := m.Maintain(t.Context()); err != nil || p.closeCalls() != 0 {
			t.Errorf("a session was closed under a request: %v", err)
		}
		c.Release()
		waitUntil(t, "it is closed", func() bool { return countByState(t, db)["closed"] == 1 })
	})
}

func TestClaim_RetiredSessionServesNobodyAndIsKeptUntilItExpires(t *testing.T) {
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
			t.Errorf("got %s again", next.SessionID())
		}
		next.Release()
		c.Release()
		if err := m.Maintain(t.Context()); err != nil || p.closeCalls() != 0 {
			t.Errorf("closed before the chain's end, %v", err)
		}
	})
}

func TestEraseUser_LeavesNoName(t *testing.T) {
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
				t.Errorf("%d rows name her still, %v", n, err)
			}
			use(t, m, "bob")
			if want := map[bool]int{false: 2, true: 1}[shared]; p.openCalls() != want {
				t.Errorf("shared %v: %d opens, want %d", shared, p.openCalls(), want)
			}
			stop()
		}
	})
}

func TestAcquire_KeepsOwnersWhenTheScopeChanges(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.Shared = true
		m, stop := startManager(t, db, p, o)
		use(t, m, "alice")
		if c, err := m.AcquireSession(t.Context(), "bob", "0x1"); err != nil {
			t.Errorf("a shared session by its name: %v", err)
		} else {
			c.Release()
		}
		stop()
		o.Shared = false
		m, _ = startManager(t, db, p, o)
		if _, err := m.AcquireSession(t.Context(), "bob", "0x1"); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("bob, by its name: %v", err)
		}
		if c, err := m.AcquireSession(t.Context(), "alice", "0x1"); err != nil {
			t.Errorf("alice, by its name: %v", err)
		} else {
			c.Release()
		}
		use(t, m, "bob")
		if p.openCalls() != 2 {
			t.Errorf("%d opens", p.openCalls())
		}
	})
}

func TestReconcile_AdoptsAnEndedSessionWithoutServingIt(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		p.onOpen = func(n int) (string, error) {
			if n > 1 {
				return "yes", nil
			}
			p.add(session.ChainSession{ID: "0xorphan", ModelID: modelA, OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[0].Duration), ClosedAt: time.Now().Add(-time.Second)})
			return "", errors.New("time-out")
		}
		o := testOptions()
		o.CloseAfter = time.Millisecond
		m, _ := startManager(t, db, p, o)
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) {
			t.Errorf("got %v, want that the request that paid is told to come back", err)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0x2" {
			t.Errorf("got %s", c.SessionID())
		}
		c.Release()
		waitUntil(t, "the orphan's row is closed", func() bool { r := countByState(t, db); return r["closed"] == 1 && r["open"] == 1 })
	})
}

func TestMaintain_ReadsAnEstimatedEndBeforeAClose(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{getErr: errors.New("slow")}
		o := testOptions()
		o.CloseAfter = time.Millisecond
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		shiftEnds(t, db, 2*time.Hour)
		p.withLock(func() { p.getErr = nil })
		m.Trigger()
		waitUntil(t, "the chain's end is in the row", func() bool {
			list, err := m.List(t.Context(), "alice")
			return err == nil && len(list) == 1 && time.Until(list[0].EndsAt) > 50*time.Minute
		})
		if p.closeCalls() != 0 {
			t.Error("closed before its end")
		}
	})
}

func TestAcquire_FailsAtOnceWhileAnUnknownOpenCannotBeLookedUp(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onOpen: func(int) (string, error) { return "", errors.New("cut") }, listErr: errors.New("away")}
		a, _ := startManager(t, db, p, testOptions())
		b, _ := startManager(t, db, p, testOptions())
		for _, m := range []*session.Manager{a, b} {
			_, err := m.Acquire(t.Context(), requestFor("alice"))
			if u, ok := errors.AsType[*session.UnavailableError](err); !ok || !errors.Is(err, session.ErrUnavailable) || u.RetryAfter != 5*time.Second {
				t.Errorf("got %v", err)
			}
		}
		if p.openCalls() != 1 {
			t.Errorf("%d opens asked for while the first is of unknown outcome", p.openCalls())
		}
		p.withLock(func() {
			p.listErr = nil
			p.add(session.ChainSession{ID: "0xfound", ModelID: modelA, OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[0].Duration)})
		})
		waitUntil(t, "it is adopted", func() bool { return countByState(t, db)["open"] == 1 })
		use(t, a, "alice")
	})
}

func TestOpen_LeavesASecondCollisionToTheReconciler(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{onOpen: func(n int) (string, error) {
			if n <= 2 {
				return "", fmt.Errorf("%w: already known", session.ErrWalletCollision)
			}
			return "yes", nil
		}}
		o := testOptions()
		o.ReconcileTimeout = 500 * time.Millisecond
		m, _ := startManager(t, db, p, o)
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) || p.openCalls() != 2 {
			t.Errorf("%v after %d opens asked for, want that it is told to come back after one retry", err, p.openCalls())
		}
		waitUntil(t, "it is given up", func() bool { return countByState(t, db)["lost"] == 1 })
		use(t, m, "alice")
		if r := countByState(t, db); p.openCalls() != 3 || r["lost"] != 1 || r["open"] != 1 {
			t.Errorf("%d opens asked for, rows %v; want another once the first is given up", p.openCalls(), r)
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

func TestAcquire_KeepsBudgetsExactUnderConcurrency(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, tc := range map[string]struct {
			set   func(*session.Options)
			limit string
			least int64 // opens; 4 are the most
		}{
			"an hour": {func(o *session.Options) { o.OpensPerHour = 4 }, session.LimitHour, 4},
			"a day":   {func(o *session.Options) { o.OpensPerDay = 4 }, session.LimitDay, 4},
			// Two, and as many again where one is idle for the moment until it is claimed.
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
				if opened := int64(p.openCalls()); opened < tc.least || opened > 4 || int64(n) > opened || int64(n)+refused.Load() != 24 {
					t.Errorf("%d opens, %d served and %d refused of 24 with a limit of 4", opened, n, refused.Load())
				}
			})
		}
	})
}

func TestAcquire_NamesTheLimitThatHoldsLongest(t *testing.T) {
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
			t.Errorf("got %v, want the day's", err)
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
		released := context.AfterFunc(c.Context(), func() {
			if !errors.Is(context.Cause(c.Context()), session.ErrNotRunning) {
				t.Errorf("told %v", context.Cause(c.Context()))
			}
			c.Release()
		})
		defer released()
		waiting := make(chan error)
		go func() {
			_, err := m.AcquireSession(t.Context(), "alice", session.ID(c.SessionID()))
			waiting <- err
		}()
		stop()
		if err := <-waiting; !errors.Is(err, session.ErrNotRunning) {
			t.Errorf("who waited was told %v", err)
		}
		if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrNotRunning) {
			t.Errorf("who came afterwards was told %v", err)
		}
		var leased int
		if err := db.Get(&leased, `SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL`); err != nil || leased != 0 {
			t.Errorf("%d claims were left, %v", leased, err)
		}
		if m.Run(t.Context()) == nil {
			t.Error("it ran twice")
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
			t.Errorf("%d sessions for three users with four each", n)
		}
		var leased int
		if err := db.Get(&leased, `SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL`); err != nil || leased != 0 {
			t.Errorf("%d leases were left, %v", leased, err)
		}
	})
}

func TestNew_NamesEveryInvalidOption(t *testing.T) {
	_, err := session.New(nil, nil, session.Options{Lease: time.Millisecond, Margin: -1, MaxPerUser: -1, OpensPerDay: -2})
	for _, name := range []string{"Lease", "Margin", "MaxPerUser", "OpensPerDay"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

func TestAcquire_RefusesAnIncompleteRequest(t *testing.T) {
	n, client := startNode(t, proxyroutertest.Options{})
	m, _ := startManager(t, schematest.SQLite(t), client, testOptions())
	for _, r := range []session.Request{{ModelID: "m", Duration: time.Hour}, {UserID: "u", Duration: time.Hour}, {UserID: "u", ModelID: "m"}} {
		if c, err := m.Acquire(t.Context(), r); c != nil || err == nil {
			t.Errorf("%+v was given a session", r)
		}
	}
	if n.Stats().OpenRequests != 0 {
		t.Error("an open was asked for")
	}
}
