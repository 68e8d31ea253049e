package session_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestVerify_ReportsTheStateOnTheChain(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		m, _ := startManager(t, db, p, testOptions())
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		open := p.chain[c.SessionID()]
		expired, closed := open, open
		expired.EndsAt, closed.ClosedAt = time.Now().Add(-time.Second), time.Now()
		for _, tc := range []struct {
			name string
			set  func()
			want error
		}{
			{"open", func() {}, nil},
			{"past its end", func() { p.chain[open.ID] = expired }, session.ErrEnded},
			{"closed before its end", func() { p.chain[open.ID] = closed }, session.ErrEnded},
			{"unknown", func() { delete(p.chain, open.ID) }, session.ErrEnded},
		} {
			p.withLock(tc.set)
			if err := c.Verify(t.Context()); !errors.Is(err, tc.want) {
				t.Errorf("a session that is %s: got %v, want %v", tc.name, err, tc.want)
			}
		}
		p.withLock(func() { p.getErr = session.ErrUnavailable })
		if err := c.Verify(t.Context()); !errors.Is(err, session.ErrUnavailable) || errors.Is(err, session.ErrEnded) {
			t.Errorf("an unavailable node: got %v, want only ErrUnavailable", err)
		}
	})
}

// twoProviders opens sessions of 0xp, or of 0xq if 0xp is omitted.
type twoProviders struct {
	fakeNode
	ignoresOmit bool // ignores OmitProvider, as older nodes do
}

func (p *twoProviders) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	id, err := p.fakeNode.OpenSession(ctx, r)
	p.withLock(func() {
		if c := p.chain[id]; err == nil && r.OmitProvider == "0xp" && !p.ignoresOmit {
			c.Provider = "0xQ"
			p.chain[id] = c
		}
	})
	return id, err
}

// acquireIdle opens a session and then acquires it with a request that has caused no open.
func acquireIdle(t *testing.T, m *session.Manager, user string) *session.Claim {
	t.Helper()
	use(t, m, user)
	c, err := m.Acquire(t.Context(), requestFor(user))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// replaceOptions allows each user one session, one open an hour and two replacements an hour, and
// all users together three replacements an hour.
func replaceOptions() session.Options {
	o := testOptions()
	o.MaxPerUser, o.OpensPerHour, o.MaxReplacementsPerHour, o.MaxReplacementsPerHourTotal = 1, 1, 2, 3
	return o
}

func TestReplace_OpensASessionWhileTheOldOneIsInUse(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		var seen eventLog
		o := replaceOptions()
		o.Observe = seen.add
		m, _ := startManager(t, db, p, o)
		old := acquireIdle(t, m, "alice")
		next, err := m.Replace(t.Context(), old, session.Replacement{AnotherProvider: true})
		if err != nil {
			t.Fatalf("a replacement beyond the limits of sessions and opens: %v", err)
		}
		if old.Context().Err() != nil || next.Provider() != "0xq" || next.SessionID() == old.SessionID() {
			t.Errorf("the old request ended with %v, want no end; the replacement is session %s of %s, want one of 0xq", old.Context().Err(), next.SessionID(), next.Provider())
		}
		if err := old.MarkExpired(); err != nil {
			t.Error(err)
		}
		old.Release()
		if _, err := m.Replace(t.Context(), next, session.Replacement{}); !errors.Is(err, session.ErrPaid) {
			t.Errorf("a second replacement for the request got %v, want ErrPaid", err)
		}
		next.Release()
		use(t, m, "alice")
		if p.openCalls() != 2 || seen.count(session.Replaced, "opened") != 1 || seen.count(session.Replaced, "paid") != 1 {
			t.Errorf("%d opens, want 2; events %v, want one replacement opened and one refused as paid", p.openCalls(), seen.events)
		}
		u, err := m.Usage(t.Context(), "alice")
		if err != nil || u.OpensHour != 1 {
			t.Errorf("alice was charged for %d opens, error %v; want 1, because the replacement is free", u.OpensHour, err)
		}
	})
}

// Replace may find its new session with a claim that began before it knew that the node was
// called. It must still know that the request caused the open.
func TestReplace_KnowsThatItPaidIfTheSessionIsFoundEarly(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		var seen eventLog
		var armed atomic.Bool
		var claims atomic.Int32
		claiming := make(chan struct{})
		o := replaceOptions()
		o.Observe = seen.add
		o.SetFailpoint(func(name string) {
			switch {
			case !armed.Load():
			case name == "before-call":
				<-claiming
			case name == "before-claim" && claims.Add(1) == 2: // the first comes before the open
				close(claiming)
				waitUntil(t, "the session is open", func() bool { return seen.count(session.Opened, "opened") == 2 })
			}
		})
		m, _ := startManager(t, db, p, o)
		old := acquireIdle(t, m, "alice")
		armed.Store(true)
		next, err := m.Replace(t.Context(), old, session.Replacement{AnotherProvider: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Replace(t.Context(), next, session.Replacement{}); !errors.Is(err, session.ErrPaid) || p.openCalls() != 2 {
			t.Errorf("a second replacement for the request got %v after %d opens, want ErrPaid after 2", err, p.openCalls())
		}
		next.Release()
		old.Release()
	})
}

func TestReplace_PrefersAnIdleSessionToAnOpen(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		o := testOptions()
		m, _ := startManager(t, db, p, o)
		one, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		two, err := m.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: modelA, Duration: time.Hour, OmitProvider: "0xP"})
		if err != nil {
			t.Fatal(err)
		}
		one.Release()
		two.Release()
		old := acquireIdle(t, m, "alice") // the session that ends first
		next, err := m.Replace(t.Context(), old, session.Replacement{AnotherProvider: true})
		if err != nil {
			t.Fatal(err)
		}
		if next.Provider() == old.Provider() || p.openCalls() != 2 {
			t.Errorf("a session of %s replaces one of %s after %d opens, want the other provider's idle session and 2 opens", next.Provider(), old.Provider(), p.openCalls())
		}
		next.Release()
		old.Release()
	})
}

func TestReplace_HasLimitsOfItsOwn(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		m, _ := startManager(t, db, &twoProviders{}, replaceOptions())
		replace := func(user string) error {
			t.Helper()
			old := acquireIdle(t, m, user)
			defer old.Release()
			next, err := m.Replace(t.Context(), old, session.Replacement{})
			if err != nil {
				return err
			}
			if err := old.MarkExpired(); err != nil {
				t.Error(err)
			}
			next.Release()
			return nil
		}
		limit := func(err error) string {
			if b, ok := errors.AsType[*session.BudgetError](err); ok && b.RetryAfter > 59*time.Minute && b.RetryAfter <= time.Hour {
				return b.Limit
			}
			return ""
		}
		for range 2 {
			if err := replace("alice"); err != nil {
				t.Fatal(err)
			}
		}
		if err := replace("alice"); limit(err) != session.LimitReplacements {
			t.Errorf("alice's third replacement: %v, want her hourly limit", err)
		}
		if err := replace("bob"); err != nil {
			t.Errorf("bob's first replacement: %v", err)
		}
		if err := replace("carol"); limit(err) != session.LimitReplacementsTotal {
			t.Errorf("the fourth replacement of all users: %v, want the total limit", err)
		}
	})
}

// A node that ignores OmitProvider opens a session of the provider that failed. That is noticed
// at the first replacement, so it costs one session only.
func TestReplace_RemembersANodeThatIgnoresOmitProvider(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{ignoresOmit: true}
		var seen eventLog
		o := replaceOptions()
		o.Observe = seen.add
		var claims atomic.Int64
		o.ObserveSQL = countSQL(&claims, "sessions.claim")
		m, _ := startManager(t, db, p, o)
		old := acquireIdle(t, m, "alice")
		defer old.Release()
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if c, err := m.Replace(ctx, old, session.Replacement{AnotherProvider: true}); err == nil {
				t.Errorf("alice got session %s of %s, want no session", c.SessionID(), c.Provider())
			}
		})
		waitUntil(t, "the second session is open", func() bool { return countByState(t, db)["open"] == 2 })
		before := claims.Load()
		waitUntil(t, "alice has tried to claim the second session", func() bool { return claims.Load() >= before+3 })
		leave()
		wg.Wait()
		other := acquireIdle(t, m, "bob")
		defer other.Release()
		if _, err := m.Replace(t.Context(), other, session.Replacement{AnotherProvider: true}); !errors.Is(err, session.ErrNoOtherProvider) {
			t.Errorf("bob's replacement: got %v, want ErrNoOtherProvider", err)
		}
		if p.openCalls() != 3 || seen.count(session.Mismatched, "provider") != 1 {
			t.Errorf("%d opens, want 3; events %v, want one mismatched provider", p.openCalls(), seen.events)
		}
	})
}

func TestOpen_SessionOfAnotherModelServesNobody(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		var seen eventLog
		o := testOptions()
		o.Observe = seen.add
		m, _ := startManager(t, db, &wrongModel{}, o)
		if c, err := m.Acquire(t.Context(), requestFor("alice")); err == nil {
			t.Errorf("alice got session %s of another model", c.SessionID())
		}
		if seen.count(session.Mismatched, "model") != 1 || countByState(t, db)["ending"] != 1 {
			t.Errorf("states %v, events %v; want one session ending and one mismatched model", countByState(t, db), seen.events)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
	})
}

// wrongModel opens the first session with another model than requested.
type wrongModel struct{ fakeNode }

func (p *wrongModel) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	if p.openCalls() == 0 {
		r.ModelID = "0xother"
	}
	return p.fakeNode.OpenSession(ctx, r)
}

// The chain shortens sessions above its maximum. After two opens show that, managers request
// shorter ones, whose durations identify them again.
func TestOpen_LearnsTheMaximumDurationOfTheChain(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{duration: 30 * time.Minute}
		var seen eventLog
		o := testOptions()
		o.Observe = seen.add
		m, _ := startManager(t, db, p, o)
		open := func(user string) time.Duration {
			t.Helper()
			use(t, m, user)
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.opens[len(p.opens)-1].Duration
		}
		users := names("user", 20)
		first := open(users[0])
		i := slices.IndexFunc(users[1:], func(user string) bool { return open(user) != first })
		if i < 0 {
			t.Fatal("twenty opens requested the same duration, want a shorter one after the second")
		}
		if d := open("last"); d > 30*time.Minute || d < 29*time.Minute {
			t.Errorf("an open requested %v with a maximum of 30m0s, want 29 to 30 minutes", d)
		}
		if seen.count(session.Mismatched, "length") == 0 {
			t.Error("no event reports a mismatched length")
		}
	})
}

func TestAcquire_AvoidsAProviderThatFailedForSeveralUsers(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		o := testOptions()
		a, _ := startManager(t, db, p, o)
		b, _ := startManager(t, db, p, o) // another replica
		fail := func(user string) {
			t.Helper()
			c, err := a.Acquire(t.Context(), requestFor(user))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			for range 5 {
				if err := c.ReportFailure(); err != nil {
					t.Error(err)
				}
			}
		}
		provider := func(m *session.Manager, user string) string {
			t.Helper()
			if err := m.Maintain(t.Context()); err != nil {
				t.Error(err)
			}
			c, err := m.Acquire(t.Context(), requestFor(user))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			return c.Provider()
		}
		fail("one")
		fail("two")
		if got := provider(b, "alice"); got != "0xp" {
			t.Errorf("after failures for two users a session of %s was opened, want 0xp", got)
		}
		fail("three")
		if got := provider(b, "bob"); got != "0xq" {
			t.Errorf("after failures for three users a session of %s was opened, want 0xq", got)
		}
		if got := provider(a, "alice"); got != "0xp" {
			t.Errorf("alice got a session of %s, want her open one of 0xp", got)
		}
		if err := a.EraseUser(t.Context(), "three"); err != nil {
			t.Error(err)
		}
		if got := provider(b, "carol"); got != "0xp" {
			t.Errorf("after one of the three users was erased a session of %s was opened, want 0xp", got)
		}
	})
}

// The provider that failed may be the only one. Then the node refuses an open that omits it, and
// is asked again without the omission.
func TestOpen_RetriesIfTheAvoidedProviderIsTheOnlyOne(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &onlyProvider{}
		m, _ := startManager(t, db, p, testOptions())
		for _, user := range names("user", 3) {
			c, err := m.Acquire(t.Context(), requestFor(user))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ReportFailure(); err != nil {
				t.Error(err)
			}
			c.Release()
		}
		if err := m.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
		use(t, m, "alice")
		if p.openCalls() != 4 || p.refused.Load() != 1 {
			t.Errorf("%d opens and %d refusals, want 4 and 1", p.openCalls(), p.refused.Load())
		}
	})
}

// onlyProvider refuses opens that omit a provider.
type onlyProvider struct {
	fakeNode
	refused atomic.Int64
}

func (p *onlyProvider) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	if r.OmitProvider != "" {
		p.refused.Add(1)
		return "", session.ErrNotOpened
	}
	return p.fakeNode.OpenSession(ctx, r)
}

// A provider may fail for one user only. All replicas then avoid it for this user after one
// failure.
func TestAcquire_PrefersAProviderThatDidNotFailForTheUser(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		a, _ := startManager(t, db, p, testOptions())
		b, _ := startManager(t, db, p, testOptions())
		one, err := a.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		two, err := a.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: modelA, Duration: time.Hour, OmitProvider: "0xp"})
		if err != nil {
			t.Fatal(err)
		}
		endAllIn(t, db, 30*time.Minute)
		if _, err := db.Exec(`UPDATE automation_sessions SET ends_at = next_at WHERE provider = '0xq'`); err != nil { // so that 0xp's ends first
			t.Fatal(err)
		}
		two.Release()
		if err := one.ReportFailure(); err != nil {
			t.Error(err)
		}
		one.Release()
		if err := b.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
		for _, m := range []*session.Manager{a, b} {
			c, err := m.Acquire(t.Context(), requestFor("alice"))
			if err != nil {
				t.Fatal(err)
			}
			if c.Provider() != "0xq" {
				t.Errorf("alice got a session of %s, which failed for her, want 0xq", c.Provider())
			}
			c.Release()
			waitReleased(t, db, c.SessionID()) // otherwise the other replica may find it in use
		}
	})
}

func TestReleaseBusy_LetsTheSessionCoolDown(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, leave := range map[string]func(*session.Claim){
			"released while the node was busy": (*session.Claim).ReleaseBusy,
			"the lease lapsed": func(*session.Claim) {
				q := `UPDATE automation_sessions SET lease_until = now() - interval '1 second'`
				if db.DriverName() == "sqlite" {
					q = `UPDATE automation_sessions SET lease_until = strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 seconds')`
				}
				if _, err := db.Exec(q); err != nil {
					t.Fatal(err)
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				if _, err := db.Exec(`DELETE FROM automation_sessions`); err != nil {
					t.Fatal(err)
				}
				p := &fakeNode{}
				o := testOptions()
				o.MaxPerUser, o.CoolDown, o.DrainTimeout, o.Lease = 1, time.Hour, time.Second, time.Hour
				m, stop := startManager(t, db, p, o)
				defer stop()
				o.AcquireTimeout = 300 * time.Millisecond
				impatient, stopImpatient := startManager(t, db, p, o)
				defer stopImpatient()
				c, err := m.Acquire(t.Context(), requestFor("alice"))
				if err != nil {
					t.Fatal(err)
				}
				leave(c)
				for _, acquire := range []func() (*session.Claim, error){
					func() (*session.Claim, error) { return impatient.Acquire(t.Context(), requestFor("alice")) },
					func() (*session.Claim, error) {
						return impatient.AcquireSession(t.Context(), "alice", session.ID(c.SessionID()))
					},
				} {
					if err := acquireError(acquire); !errors.Is(err, session.ErrBusy) {
						t.Errorf("got %v during the cool-down, want ErrBusy", err)
					}
				}
				if s, err := m.Stats(t.Context()); err != nil || name == "released while the node was busy" && s.Abandoned != 0 {
					t.Errorf("stats count %d abandoned leases, error %v; want none", s.Abandoned, err)
				}
				shiftLeases(t, db, time.Hour)
				use(t, m, "alice")
				if p.openCalls() != 1 {
					t.Errorf("%d opens, want 1", p.openCalls())
				}
				c.Release()
			})
		}
	})
}

// shiftLeases moves the ends of all leases into the past, as if that much time had passed.
func shiftLeases(t *testing.T, db *sqlx.DB, by time.Duration) {
	t.Helper()
	q := `UPDATE automation_sessions SET lease_until = lease_until - make_interval(secs => $1)`
	if db.DriverName() == "sqlite" {
		q = `UPDATE automation_sessions SET lease_until = strftime('%Y-%m-%d %H:%M:%f', lease_until, '-' || $1 || ' seconds')`
	}
	if _, err := db.Exec(q, by.Seconds()); err != nil {
		t.Fatal(err)
	}
}

func TestClaim_LeaseContextOutlivesTheRequest(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		m, _ := startManager(t, db, &fakeNode{}, testOptions())
		ctx, leave := context.WithCancel(t.Context())
		c, err := m.Acquire(ctx, requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		leave()
		<-c.Context().Done()
		if c.LeaseContext().Err() != nil {
			t.Error("the lease ended with the request")
		}
		c.Release()
		<-c.LeaseContext().Done()
	})
}
