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

// What a reconciler on another replica does while an open is under way here.
const (
	gaveItToAnotherRow = `INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, duration, state, created_at, ends_at, next_at)
		SELECT 'other', '0x1', model_id, 'bob', 'bob', duration, 'open', created_at, '2100-01-01 00:00:00.000', '2100-01-01 00:00:00.000' FROM automation_sessions`
	gaveTheRowAnother = `UPDATE automation_sessions SET session_id = '0xanother', state = 'open', ends_at = '2100-01-01 00:00:00.000', next_at = '2100-01-01 00:00:00.000',
		lease_token = NULL, lease_holder = NULL, lease_until = NULL`
)

func TestComplete_SwapsASessionThatAReconcilerMisassigned(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{open: func(int) (string, error) {
			_, err := db.Exec(gaveItToAnotherRow)
			return "yes", err
		}}
		// This is what bob's open had opened in truth.
		p.add(session.ChainSession{ID: "0xtruth", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(time.Hour)})
		var seen observed
		o := quick()
		o.Observe = seen.add
		m, _ := start(t, db, p, o)
		c, err := m.Acquire(t.Context(), ask("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0xtruth" || p.opened() != 1 {
			t.Errorf("alice got %s after %d opens, want the session that nobody has", c.SessionID(), p.opened())
		}
		c.Release()
		if seen.count(session.Adopted, "") != 1 || seen.count(session.Opened, "opened") != 1 || seen.count(session.Acquired, "waited") != 1 {
			t.Errorf("observed %v", seen.events)
		}
	})
}

func TestComplete_InsertsARowWhenItsOwnIsTaken(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{open: func(int) (string, error) {
			_, err := db.Exec(gaveTheRowAnother)
			return "yes", err
		}}
		m, _ := start(t, db, p, quick())
		use(t, m, "alice")
		until(t, "both are in rows", func() bool { return rows(t, db)["open"] == 2 })
		list, err := m.List(t.Context(), "alice")
		if err != nil || len(list) != 2 || list[0].SessionID != "0x1" || list[1].SessionID != "0xanother" {
			t.Errorf("alice has %+v, %v", list, err)
		}
	})
}

func TestOpen_AdoptsWhatACollisionOpened(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		p.open = func(int) (string, error) {
			p.add(session.ChainSession{ID: "0xmined", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(time.Hour)})
			return "", session.ErrWalletCollision
		}
		m, _ := start(t, db, p, quick())
		c, err := m.Acquire(t.Context(), ask("alice"))
		if err != nil {
			t.Fatal(err)
		}
		if c.SessionID() != "0xmined" {
			t.Errorf("got %s", c.SessionID())
		}
		c.Release()
		if p.opened() != 1 {
			t.Errorf("%d opens", p.opened())
		}
	})
}

func TestMaintain_SerialisesTheWalletAfterACloseCollides(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{close: func(string) error { return session.ErrWalletCollision }}
		var seen observed
		o := quick()
		o.CloseAfter, o.Observe = time.Millisecond, seen.add
		m, _ := start(t, db, p, o)
		use(t, m, "alice")
		use(t, m, "bob")
		shift(t, db, time.Hour)
		if err := m.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
		tried := p.closed()
		shift(t, db, time.Hour) // they are due again
		if err := m.Maintain(t.Context()); err != nil || p.closed() != tried || tried == 0 {
			t.Errorf("%d closes, then %d, %v; want none in the window after a collision", tried, p.closed(), err)
		}
		if seen.count(session.Collided, "") != tried || seen.count(session.Closed, "failed") != tried {
			t.Errorf("observed %v", seen.events)
		}
		use(t, m, "carol") // opens continue, alone
	})
}

func TestOpen_IsNotSentAfterItsLeaseIsLost(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		p := &fakeNode{}
		o := quick()
		o.AcquireTimeout = 5 * time.Second
		o.SetFailpoint(func(name string) {
			if name != "after-intent" {
				return
			}
			if _, err := db.Exec(`UPDATE automation_sessions SET lease_token = 'stolen' WHERE state = 'opening'`); err != nil {
				t.Error(err)
			}
		})
		m, _ := start(t, db, p, o)
		_, err := m.Acquire(t.Context(), ask("alice"))
		if _, ok := errors.AsType[*session.UnavailableError](err); !ok || p.opened() != 0 {
			t.Errorf("%v, %d opens", err, p.opened())
		}
	})
}

// What alice's open has opened may as well be what bob's, under way, is about
// to be told. Who gives up meanwhile, and opens another, pays twice.
func TestReconcile_WaitsWhileASessionMayBeAnothers(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		answer, asked := make(chan struct{}), make(chan struct{})
		p := &slowNode{answer: answer, asked: asked}
		o := quick()
		o.ReconcileTimeout = 200 * time.Millisecond
		m, _ := start(t, db, p, o)
		var wg sync.WaitGroup
		wg.Go(func() { use(t, m, "bob") })
		<-asked
		wg.Go(func() { use(t, m, "alice") })
		until(t, "it was looked for, and for longer than Settle", func() bool {
			var n int
			return db.Get(&n, `SELECT count(*) FROM automation_sessions WHERE user_id = 'alice' AND attempts >= 3`) == nil && n == 1
		})
		if r := rows(t, db); r["unknown"] != 1 || r["opening"] != 1 || p.opened() != 1 {
			t.Errorf("rows %v; want alice's still of unknown outcome, bob's under way", r)
		}
		close(answer)
		wg.Wait()
		if r := rows(t, db); r["open"] != 2 || len(r) != 1 {
			t.Errorf("rows %v, want both open", r)
		}
	})
}

// slowNode answers the first open when it is told to, and cuts the answers to
// the others.
type slowNode struct {
	fakeNode
	calls         atomic.Int64
	answer, asked chan struct{}
}

func (p *slowNode) OpenSession(ctx context.Context, r session.OpenRequest) (string, error) {
	if p.calls.Add(1) > 1 {
		_, err := p.fakeNode.OpenSession(ctx, r)
		return "", errors.Join(errors.New("cut"), err)
	}
	close(p.asked)
	select {
	case <-p.answer:
		return p.fakeNode.OpenSession(ctx, r)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Between a look for an idle session and the intent to open another there is
// room for a release. A row that another transaction has locked is such a
// session: it is free, and cannot be claimed just now.
func TestAcquire_WaitsForASessionThatIsBecomingIdle(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	p := &fakeNode{}
	var mu sync.Mutex
	reservations := 0
	o := quick()
	o.ObserveSQL = func(name string, _, _ time.Duration, _ error) {
		mu.Lock()
		defer mu.Unlock()
		if name == "sessions.reserve" {
			reservations++
		}
	}
	m, _ := start(t, db, p, o)
	seen := func() int {
		mu.Lock()
		defer mu.Unlock()
		return reservations
	}
	use(t, m, "alice")
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.Exec(`SELECT id FROM automation_sessions FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	before := seen()
	var wg sync.WaitGroup
	wg.Go(func() { use(t, m, "alice") })
	until(t, "it has tried to reserve", func() bool { return seen() >= before+2 })
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if p.opened() != 1 {
		t.Errorf("%d opens, want the one session used again", p.opened())
	}
}
