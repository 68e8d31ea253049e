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

func TestVerify_SaysWhatTheChainSays(t *testing.T) {
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
				t.Errorf("%s: %v; want %v", tc.name, err, tc.want)
			}
		}
		p.withLock(func() { p.getErr = session.ErrUnavailable })
		if err := c.Verify(t.Context()); !errors.Is(err, session.ErrUnavailable) || errors.Is(err, session.ErrEnded) {
			t.Errorf("a node that cannot be asked: %v", err)
		}
	})
}

// twoProviders opens with 0xp, or with 0xq where 0xp is omitted.
type twoProviders struct {
	fakeNode
	ignoresOmit bool // the field OmitProvider, as older nodes do
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

// acquireIdle is a request that holds a session of 0xp and has paid for none.
func acquireIdle(t *testing.T, m *session.Manager, user string) *session.Claim {
	t.Helper()
	use(t, m, user)
	c, err := m.Acquire(t.Context(), requestFor(user))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func replaceOptions() session.Options {
	o := testOptions()
	o.MaxPerUser, o.OpensPerHour, o.MaxReplacementsPerHour, o.MaxReplacementsPerHourTotal = 1, 1, 2, 3
	return o
}

func TestReplace_OpensAnotherBeforeTheOldOneIsLetGo(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		var seen eventLog
		o := replaceOptions()
		o.Observe = seen.add
		m, _ := startManager(t, db, p, o)
		old := acquireIdle(t, m, "alice")
		next, err := m.Replace(t.Context(), old, session.Replacement{AnotherProvider: true})
		if err != nil {
			t.Fatal(err) // neither her places nor her opens of the hour allow one more
		}
		if old.Context().Err() != nil || next.Provider() != "0xq" || next.SessionID() == old.SessionID() {
			t.Errorf("old %v, next %s of %s", old.Context().Err(), next.SessionID(), next.Provider())
		}
		if err := old.MarkExpired(); err != nil {
			t.Error(err)
		}
		old.Release()
		if _, err := m.Replace(t.Context(), next, session.Replacement{}); !errors.Is(err, session.ErrPaid) {
			t.Errorf("a request that has caused an open was told %v", err)
		}
		next.Release()
		use(t, m, "alice")
		if p.openCalls() != 2 || seen.count(session.Replaced, "opened") != 1 || seen.count(session.Replaced, "paid") != 1 {
			t.Errorf("%d opens, observed %v", p.openCalls(), seen.events)
		}
		u, err := m.Usage(t.Context(), "alice")
		if err != nil || u.OpensHour != 1 {
			t.Errorf("she was charged %d opens, %v; want her own alone", u.OpensHour, err)
		}
	})
}

// The session that Replace has caused is open before Replace knows that the node
// was called, and found by a search that began before.
func TestReplace_NotesThatItPaidHoweverSoonTheSessionIsFound(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{}
		var seen eventLog
		var armed atomic.Bool
		var searches atomic.Int32
		searching := make(chan struct{})
		o := replaceOptions()
		o.Observe = seen.add
		o.SetFailpoint(func(name string) {
			switch {
			case !armed.Load():
			case name == "before-call":
				<-searching
			case name == "before-claim" && searches.Add(1) == 2: // the first comes before anything is opened
				close(searching)
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
			t.Errorf("a request that has caused an open was told %v; %d opens", err, p.openCalls())
		}
		next.Release()
		old.Release()
	})
}

func TestReplace_TakesAnIdleSessionBeforeItPays(t *testing.T) {
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
		old := acquireIdle(t, m, "alice") // the one that ends first
		next, err := m.Replace(t.Context(), old, session.Replacement{AnotherProvider: true})
		if err != nil {
			t.Fatal(err)
		}
		if next.Provider() == old.Provider() || p.openCalls() != 2 {
			t.Errorf("got one of %s in the place of one of %s, after %d opens", next.Provider(), old.Provider(), p.openCalls())
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
			t.Errorf("her third within the hour: %v", err)
		}
		if err := replace("bob"); err != nil {
			t.Errorf("bob's first: %v", err)
		}
		if err := replace("carol"); limit(err) != session.LimitReplacementsTotal {
			t.Errorf("the fourth of all: %v", err)
		}
	})
}

// A node that ignores the field opens with the provider that failed: that is
// found out once, and costs one session.
func TestReplace_RemembersANodeThatOmitsNobody(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &twoProviders{ignoresOmit: true}
		var seen eventLog
		o := replaceOptions()
		o.Observe = seen.add
		var claims atomic.Int64 // that were tried
		o.ObserveSQL = countSQL(&claims, "sessions.claim")
		m, _ := startManager(t, db, p, o)
		old := acquireIdle(t, m, "alice")
		defer old.Release()
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if c, err := m.Replace(ctx, old, session.Replacement{AnotherProvider: true}); err == nil {
				t.Errorf("she was given %s of %s", c.SessionID(), c.Provider())
			}
		})
		waitUntil(t, "it is open", func() bool { return countByState(t, db)["open"] == 2 })
		tried := claims.Load()
		waitUntil(t, "she has asked for it twice", func() bool { return claims.Load() >= tried+3 })
		leave()
		wg.Wait()
		other := acquireIdle(t, m, "bob")
		defer other.Release()
		if _, err := m.Replace(t.Context(), other, session.Replacement{AnotherProvider: true}); !errors.Is(err, session.ErrNoOtherProvider) {
			t.Errorf("the next one was told %v", err)
		}
		if p.openCalls() != 3 || seen.count(session.Mismatched, "provider") != 1 {
			t.Errorf("%d opens, observed %v", p.openCalls(), seen.events)
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
			t.Errorf("she was given %s", c.SessionID())
		}
		if seen.count(session.Mismatched, "model") != 1 || countByState(t, db)["ending"] != 1 {
			t.Errorf("rows %v, observed %v", countByState(t, db), seen.events)
		}
		c, err := m.Acquire(t.Context(), requestFor("alice"))
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
	})
}

// wrongModel opens the first session for another model.
type wrongModel struct{ fakeNode }

func (p *wrongModel) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	if p.openCalls() == 0 {
		r.ModelID = "0xother"
	}
	return p.fakeNode.OpenSession(ctx, r)
}

// The chain shortens what is above its maximum. Two opens show it; from then on
// lengths are chosen below, so that opens stay recognisable.
func TestOpen_LearnsTheLongestSessionOfTheChain(t *testing.T) {
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
			t.Fatal("twenty opens asked for the same length")
		}
		if d := open("last"); d > 30*time.Minute || d < 29*time.Minute {
			t.Errorf("asked for %v of a chain that gives 30m0s", d)
		}
		if seen.count(session.Mismatched, "length") == 0 {
			t.Error("nobody was told")
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
			t.Errorf("after the failures of two users a session of %s was opened", got)
		}
		fail("three")
		if got := provider(b, "bob"); got != "0xq" {
			t.Errorf("after the failures of three users a session of %s was opened", got)
		}
		if got := provider(a, "alice"); got != "0xp" {
			t.Errorf("alice, who has a session of the failing one alone, was given one of %s", got)
		}
		if err := a.EraseUser(t.Context(), "three"); err != nil {
			t.Error(err)
		}
		if got := provider(b, "carol"); got != "0xp" {
			t.Errorf("after one of the three was erased: %s", got)
		}
	})
}

// The provider that fails may be the only one: then the node refuses, has sent
// nothing, and is asked once more without the omission.
func TestOpen_AsksAgainWhereTheAvoidedProviderIsTheOnlyOne(t *testing.T) {
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
			t.Errorf("%d opens, %d refused", p.openCalls(), p.refused.Load())
		}
	})
}

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

// A provider may work for everybody but one user; and the failure is theirs at
// once, in every replica.
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
				t.Errorf("she was given a session of %s, which has just failed for her", c.Provider())
			}
			c.Release()
			waitReleased(t, db, c.SessionID()) // which another replica does not wait for
		}
	})
}

func TestReleaseBusy_LetsTheSessionCoolDown(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		for name, leave := range map[string]func(*session.Claim){
			"left while the node was busy": (*session.Claim).ReleaseBusy,
			"its lease lapsed": func(*session.Claim) {
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
				hasty, stopHasty := startManager(t, db, p, o)
				defer stopHasty()
				c, err := m.Acquire(t.Context(), requestFor("alice"))
				if err != nil {
					t.Fatal(err)
				}
				leave(c)
				for _, acquire := range []func() (*session.Claim, error){
					func() (*session.Claim, error) { return hasty.Acquire(t.Context(), requestFor("alice")) },
					func() (*session.Claim, error) {
						return hasty.AcquireSession(t.Context(), "alice", session.ID(c.SessionID()))
					},
				} {
					if err := acquireError(acquire); !errors.Is(err, session.ErrBusy) {
						t.Errorf("got %v; want that it stays busy", err)
					}
				}
				if s, err := m.Stats(t.Context()); err != nil || name == "left while the node was busy" && s.Abandoned != 0 {
					t.Errorf("%d abandoned, %v", s.Abandoned, err)
				}
				shiftLeases(t, db, time.Hour)
				use(t, m, "alice")
				if p.openCalls() != 1 {
					t.Errorf("%d opens", p.openCalls())
				}
				c.Release()
			})
		}
	})
}

// shiftLeases lets time pass for all leases.
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
