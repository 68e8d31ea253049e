package session_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestOpen_RequestsADurationThatNoOtherOpenHas(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		const users = 16
		allCalled := make(chan struct{})
		p := &blockedNode{unblock: make(chan struct{})}
		p.onCall = func(n int64) {
			if n == users {
				close(allCalled)
			}
		}
		o := testOptions()
		o.MaxPerUser = 1
		var managers []*session.Manager
		for range 3 {
			m, _ := startManager(t, db, p, o)
			managers = append(managers, m)
		}
		var wg sync.WaitGroup
		for i, user := range names("user", users) {
			wg.Go(func() { use(t, managers[i%3], user) })
		}
		<-allCalled // all opens are under way
		p.withLock(func() {
			seen := map[time.Duration]bool{}
			for _, r := range p.requests {
				if seen[r.Duration] || r.Duration <= time.Hour || r.Duration%(5*time.Second) != 3*time.Second {
					t.Errorf("an open of %v: another open has that duration, or it is round or too short", r.Duration)
				}
				seen[r.Duration] = true
			}
		})
		close(p.unblock)
		wg.Wait()
	})
}

// blockedNode answers opens only after unblock was closed.
type blockedNode struct {
	fakeNode
	unblock  chan struct{}
	requests []session.OpenRequest
	onCall   func(n int64)
	calls    atomic.Int64
}

func (p *blockedNode) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	p.withLock(func() { p.requests = append(p.requests, r) })
	if p.onCall != nil {
		p.onCall(p.calls.Add(1))
	}
	select {
	case <-p.unblock:
		return p.fakeNode.OpenSession(ctx, r)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// The wallet has a session of the same model and time as the lost open. Its duration, or
// something else, shows that the lost open did not make it.
func TestReconcile_AdoptsNobodyElsesSession(t *testing.T) {
	named := session.ID("0x" + fmt.Sprintf("%064d", 7))
	for name, tc := range map[string]struct {
		id       string
		duration time.Duration // zero: the one that was requested
		set      func(*session.Options)
		named    bool
	}{
		"a round duration":            {id: "0xround", duration: time.Hour},
		"requested by a client by id": {id: named.String(), named: true},
		"claimed by the host": {id: "0xhost", set: func(o *session.Options) {
			o.Foreign = func(_ context.Context, s session.ChainSession) (bool, error) { return s.ID == "0xhost", nil }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
				p := &fakeNode{}
				p.onOpen = func(n int) error {
					if n > 1 {
						return nil
					}
					p.add(session.ChainSession{ID: tc.id, ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(cmp.Or(tc.duration, p.opens[0].Duration))})
					return errors.New("cut")
				}
				o := testOptions()
				o.ReconcileTimeout = 500 * time.Millisecond
				if tc.set != nil {
					tc.set(&o)
				}
				m, _ := startManager(t, db, p, o)
				if tc.named {
					if _, err := m.AcquireSession(t.Context(), "bob", named); !errors.Is(err, session.ErrUnmanaged) {
						t.Fatalf("bob requests a session without a row: %v, want ErrUnmanaged", err)
					}
				}
				if _, err := m.Acquire(t.Context(), requestFor("alice")); !errors.Is(err, session.ErrOpening) {
					t.Errorf("alice got %v, want ErrOpening", err)
				}
				waitUntil(t, "alice's first session is given up", func() bool { return countByState(t, db)["lost"] == 1 })
				c, err := m.Acquire(t.Context(), requestFor("alice"))
				if err != nil {
					t.Fatal(err)
				}
				c.Release()
				if c.SessionID() != "0x2" {
					t.Errorf("alice got session %s, want 0x2", c.SessionID())
				}
				var n int
				if err := db.Get(&n, `SELECT count(*) FROM automation_sessions WHERE session_id = $1`, tc.id); err != nil || n != 0 {
					t.Errorf("%d rows have the foreign session, error %v; want none", n, err)
				}
			})
		})
	}
}

// Ended and closed sessions of the wallet need no row.
func TestMaintain_CountsWalletSessionsWithoutARow(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		now := time.Now()
		p.add(session.ChainSession{ID: "0xopen", ModelID: modelA, OpenedAt: now, EndsAt: now.Add(time.Hour)})
		p.add(session.ChainSession{ID: "0xopen2", ModelID: modelA, OpenedAt: now, EndsAt: now.Add(time.Hour)})
		p.add(session.ChainSession{ID: "0xclosed", ModelID: modelA, OpenedAt: now, EndsAt: now.Add(time.Hour), ClosedAt: now})
		p.add(session.ChainSession{ID: "0xended", ModelID: modelA, OpenedAt: now.Add(-2 * time.Hour), EndsAt: now.Add(-time.Hour)})
		var seen eventLog
		o := testOptions()
		o.Observe, o.Interval = seen.add, time.Hour
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice") // has a row
		if err := m.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := m.Stats(t.Context())
		if err != nil || s.Unexplained != 2 {
			t.Errorf("%d unexplained sessions, error %v; want 2", s.Unexplained, err)
		}
		if seen.count(session.Unexplained, "") != 1 {
			t.Error("no event reports the unexplained sessions")
		}
		if err := m.Maintain(t.Context()); err != nil || seen.count(session.Unexplained, "") != 1 {
			t.Errorf("%d events after a second round, want 1, because the wallet is not compared at every round; error %v", seen.count(session.Unexplained, ""), err)
		}
	})
}

// The time-out of a transaction must not include the time that the node takes.
func TestReconcile_AdoptsThoughTheNodeIsSlow(t *testing.T) {
	skipShort(t)
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &slowLister{}
		p.onOpen = func(int) error {
			p.add(session.ChainSession{ID: "0xfound", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[0].Duration)})
			return errors.New("cut")
		}
		o := testOptions()
		o.SetSQLTimeout(5 * time.Second)
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		if p.openCalls() != 1 {
			t.Errorf("%d opens, want 1", p.openCalls())
		}
	})
}

// slowLister takes longer to list the wallet's sessions than a transaction may take.
type slowLister struct{ fakeNode }

func (p *slowLister) WalletSessions(ctx context.Context, since time.Time) ([]session.ChainSession, error) {
	late := time.NewTimer(6 * time.Second)
	defer late.Stop()
	select {
	case <-late.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return p.fakeNode.WalletSessions(ctx, since)
}

// A replica was killed while the node opened a session. The user's next request waits until
// the session is found, and the node is not asked again.
func TestAcquire_PaysNoSecondTimeAfterAKillDuringAnOpen(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.Interval = 50 * time.Millisecond
		m, _ := startManager(t, db, p, o)
		// The intent of a replica that called the node and was killed.
		q := `INSERT INTO automation_sessions (id, model_id, owner_id, user_id, charged_at, duration, fingerprint, state, lease_token, lease_holder, lease_until, created_at, called_at, next_at)
			VALUES ('dead', $1, 'alice', 'alice', now(), 3600, 3608, 'opening', 't', 'dead', now() + interval '2 seconds', now(), now(), now())`
		if db.DriverName() == "sqlite" {
			q = `INSERT INTO automation_sessions (id, model_id, owner_id, user_id, charged_at, duration, fingerprint, state, lease_token, lease_holder, lease_until, created_at, called_at, next_at)
			VALUES ('dead', $1, 'alice', 'alice', strftime('%Y-%m-%d %H:%M:%f', 'now'), 3600, 3608, 'opening', 't', 'dead', strftime('%Y-%m-%d %H:%M:%f', 'now', '+2 seconds'),
				strftime('%Y-%m-%d %H:%M:%f', 'now'), strftime('%Y-%m-%d %H:%M:%f', 'now'), strftime('%Y-%m-%d %H:%M:%f', 'now'))`
		}
		if _, err := db.Exec(q, modelA); err != nil {
			t.Fatal(err)
		}
		served := make(chan *session.Claim)
		go func() {
			c, err := m.Acquire(t.Context(), requestFor("alice"))
			if err != nil {
				t.Error(err)
			}
			served <- c
		}()
		waitUntil(t, "the outcome of the open is recorded as unknown", func() bool { return countByState(t, db)["unknown"] == 1 })
		p.withLock(func() { // the session appears on the chain
			p.add(session.ChainSession{ID: "0xfound", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(3607 * time.Second)})
		})
		if c := <-served; c != nil {
			if c.SessionID() != "0xfound" {
				t.Errorf("the request got session %s, want 0xfound", c.SessionID())
			}
			c.Release()
		}
		if p.openCalls() != 0 {
			t.Errorf("%d more opens, want none", p.openCalls())
		}
	})
}

// An intent that lost its lease before the node was called has opened nothing. A request that
// still waits gets another intent.
func TestAcquire_OpensAfterAnIntentLostItsLease(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		var once sync.Once
		o.SetFailpoint(func(name string) {
			if name != "after-intent" {
				return
			}
			once.Do(func() {
				if _, err := db.Exec(`UPDATE automation_sessions SET lease_token = 'another', lease_until = created_at WHERE state = 'opening'`); err != nil {
					t.Error(err)
				}
			})
		})
		m, _ := startManager(t, db, p, o)
		use(t, m, "alice")
		waitUntil(t, "no intent is opening any more", func() bool { return countByState(t, db)["opening"] == 0 })
		if r := countByState(t, db); p.openCalls() != 1 || r["failed"] != 1 || r["open"] != 1 {
			t.Errorf("%d opens, states %v; want 1 open, one session open and one failed intent", p.openCalls(), r)
		}
	})
}

// A call collides and its retry hangs. The other calls wait for the seconds in which a
// transaction is sent, and not for the node's answer.
func TestOpen_AHangingCallKeepsTheWalletForSecondsOnly(t *testing.T) {
	skipShort(t)
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &hangingNode{hanging: make(chan struct{}), unblock: make(chan struct{})}
		m, _ := startManager(t, db, p, testOptions())
		var wg sync.WaitGroup
		wg.Go(func() { use(t, m, "unlucky") })
		<-p.hanging
		use(t, m, "alice") // while the retry hangs
		use(t, m, "bob")
		close(p.unblock)
		wg.Wait()
	})
}

// After a collision, a call does not wait for the answers to the calls before it.
func TestOpen_WaitsForNoAnswerAfterACollision(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &collidingNode{unblock: make(chan struct{})}
		m, _ := startManager(t, db, p, testOptions())
		use(t, m, "unlucky")
		var wg sync.WaitGroup
		for _, user := range names("user", 2) {
			wg.Go(func() { use(t, m, user) })
		}
		waitUntil(t, "both calls are under way", func() bool { return p.calls.Load() == 4 })
		hold := `EXTRACT(EPOCH FROM lane_until - called_at)`
		if db.DriverName() == "sqlite" {
			hold = `(julianday(lane_until) - julianday(called_at)) * 86400`
		}
		var holds []float64
		if err := db.Select(&holds, `SELECT `+hold+` FROM automation_sessions WHERE state = 'opening' AND lane = 'alone'`); err != nil {
			t.Fatal(err)
		}
		if len(holds) != 2 || slices.Max(holds) > 1 {
			t.Errorf("the calls keep the wallet for %v s, want two that keep it for at most 1 s", holds)
		}
		close(p.unblock)
		wg.Wait()
	})
}

// collidingNode makes the first call collide. It answers the retry at once, and all others
// after unblock was closed.
type collidingNode struct {
	fakeNode
	calls   atomic.Int64
	unblock chan struct{}
}

func (p *collidingNode) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	switch p.calls.Add(1) {
	case 1:
		return "", session.ErrWalletCollision
	case 2:
	default:
		<-p.unblock
	}
	return p.fakeNode.OpenSession(ctx, r)
}

// hangingNode makes the first call collide and the retry hang until unblock is closed. It answers
// all others at once.
type hangingNode struct {
	fakeNode
	calls            atomic.Int64
	hanging, unblock chan struct{}
}

func (p *hangingNode) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	switch p.calls.Add(1) {
	case 1:
		return "", session.ErrWalletCollision
	case 2:
		close(p.hanging)
		select {
		case <-p.unblock:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return p.fakeNode.OpenSession(ctx, r)
}

// Twelve users ask for a session while another call has the wallet, and leave before it is free.
// No session is opened for them.
func TestOpen_PaysForNobodyWhoHasLeft(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		m, _ := startManager(t, db, p, testOptions())
		const taken = `UPDATE automation_wallet SET alone_until = '2100-01-01 00:00:00.000'`
		const holder = `INSERT INTO automation_sessions (id, model_id, owner_id, user_id, duration, state, lane, lane_until, lease_token, lease_holder, lease_until, created_at, called_at, next_at)
			VALUES ('holder', 'm', 'x', 'x', 60, 'opening', 'alone', '2100-01-01 00:00:00.000', 't', 'h', '2100-01-01 00:00:00.000', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000', '2100-01-01 00:00:00.000')`
		for _, q := range []string{taken, holder} {
			if _, err := db.Exec(q); err != nil {
				t.Fatal(err)
			}
		}
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, user := range names("user", 12) {
			wg.Go(func() {
				for ctx.Err() == nil { // again if the database of a busy machine was too slow
					if c, err := m.Acquire(ctx, requestFor(user)); err == nil {
						t.Errorf("%s got session %s while another call had the wallet", user, c.SessionID())
					}
				}
			})
		}
		waitUntil(t, "each user has an intent", func() bool {
			var users int
			if err := db.Get(&users, `SELECT count(DISTINCT user_id) FROM automation_sessions WHERE state = 'opening'`); err != nil {
				t.Fatal(err)
			}
			return users == 13 // with that of the other call
		})
		leave()
		wg.Wait()
		if _, err := db.Exec(`DELETE FROM automation_sessions WHERE id = 'holder'`); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "no intent is opening any more", func() bool { return countByState(t, db)["opening"] == 0 })
		if got := countByState(t, db); p.openCalls() != 0 || len(got) != 1 || got["failed"] < 12 {
			t.Errorf("%d opens for users who had left, states %v; want no open and only failed intents", p.openCalls(), got)
		}
	})
}

func TestAcquire_LeavesTheLastPlaceToAnotherModel(t *testing.T) {
	onBothDatabases(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := testOptions()
		o.MaxPerUser = 3
		m, _ := startManager(t, db, p, o)
		var claims []*session.Claim
		hold := func(model string) {
			t.Helper()
			c, err := m.Acquire(t.Context(), requestForModel("alice", model))
			if err != nil {
				t.Fatal(err)
			}
			claims = append(claims, c)
		}
		hold("one")
		hold("one") // a second session, because opens are quick here
		third := make(chan error, 1)
		go func() { // waits, because a third session of this model would take the last place
			c, err := m.Acquire(t.Context(), requestForModel("alice", "one"))
			if err == nil {
				c.Release()
			}
			third <- err
		}()
		hold("two")
		if p.openCalls() != 3 {
			t.Errorf("%d opens, want two of model one and one of model two", p.openCalls())
		}
		for _, c := range claims {
			c.Release()
		}
		if err := <-third; err != nil {
			t.Errorf("the third request of model one: %v", err)
		}
		if p.openCalls() != 3 {
			t.Errorf("%d opens after all requests were served, want 3", p.openCalls())
		}
	})
}
