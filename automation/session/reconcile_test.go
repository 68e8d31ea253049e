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
	gaveTheRowAnother = `UPDATE automation_sessions SET session_id = '0xanother', state = 'open', ends_at = '2100-01-01 00:00:00.000', next_at = '2100-01-01 00:00:00.000',
		lease_token = NULL, lease_holder = NULL, lease_until = NULL`
)

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
		p.open = func(n int) (string, error) {
			p.add(session.ChainSession{ID: "0xmined", ModelID: modelA, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(p.opens[n-1].Duration)})
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
		shift(t, db, 2*time.Hour)
		if err := m.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
		tried := p.closed()
		shift(t, db, 2*time.Hour) // they are due again
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
		if _, err := m.Acquire(t.Context(), ask("alice")); err == nil || p.opened() != 0 {
			t.Errorf("%v, %d opens", err, p.opened())
		}
	})
}

// Bob's open has reached the chain and is not answered yet; alice's, of the same
// model and duration, was cut. What is bob's must not become alice's.
func TestReconcile_LeavesTheSessionOfAnotherOpenAlone(t *testing.T) {
	each(t, func(t *testing.T, db *sqlx.DB) {
		p := &slowNode{answer: make(chan struct{}), asked: make(chan struct{})}
		m, _ := start(t, db, p, quick())
		var wg sync.WaitGroup
		wg.Go(func() { use(t, m, "bob") })
		<-p.asked
		if _, err := m.Acquire(t.Context(), ask("alice")); !errors.Is(err, session.ErrOpening) {
			t.Errorf("alice was told %v, want to come back", err)
		}
		if r := rows(t, db); r["open"] != 0 {
			t.Errorf("rows %v, want nothing adopted", r)
		}
		close(p.answer)
		wg.Wait()
		var owner string
		if err := db.Get(&owner, `SELECT owner_id FROM automation_sessions WHERE session_id = '0x1'`); err != nil || owner != "bob" {
			t.Errorf("bob's session belongs to %q, %v", owner, err)
		}
	})
}

// slowNode opens the first session and answers when it is told to, and cuts the
// other calls before they do anything.
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
