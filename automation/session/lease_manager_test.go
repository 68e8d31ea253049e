package session

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// table is a database of leases that can be away.
type table struct {
	mu     sync.Mutex
	tokens map[string]string // by id
	locked map[string]bool   // rows that another transaction has locked
	lapsed []string
	away   bool
	beats  int
}

func (s *table) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *table) heartbeat(_ context.Context, ids []string) (extended, locked map[string]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.beats++; s.away {
		return nil, nil, errors.New("away")
	}
	extended, locked = map[string]string{}, map[string]string{}
	for _, id := range ids {
		token, ok := s.tokens[id]
		switch {
		case ok && s.locked[id]:
			locked[id] = token
		case ok:
			extended[id] = token
		}
	}
	return extended, locked, nil
}

func (s *table) lapse(ctx context.Context, list []lease) error {
	if err := s.release(ctx, list); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range list {
		s.lapsed = append(s.lapsed, l.id)
	}
	return nil
}

func (s *table) release(_ context.Context, list []lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errors.New("away")
	}
	for _, l := range list {
		if s.tokens[l.id] == l.token {
			delete(s.tokens, l.id)
		}
	}
	return nil
}

// beating runs a manager's heart over a table, in a bubble.
func beating(t *testing.T, s *table, fn func(t *testing.T, k *leaseManager, hold func(l lease) context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts, err := Options{Lease: 12 * time.Second}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		m := &Manager{opts: opts, leases: newLeaseManager(s, opts.Lease, time.Now)}
		ctx, cancel := context.WithCancel(t.Context())
		go m.heartbeatLoop(ctx)
		go m.expiryLoop(ctx)
		fn(t, m.leases, func(l lease) context.Context {
			work, lost := context.WithCancelCause(ctx)
			m.leases.add(l, time.Now(), lost)
			return work
		})
		cancel()
		synctest.Wait()
	})
}

func TestHeartbeat_KeepsLeasesWhileTheDatabaseAnswers(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "mine"}}
	beating(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		work := hold(lease{"row", "mine"})
		time.Sleep(10 * time.Minute)
		if work.Err() != nil {
			t.Errorf("it lost its lease: %v", context.Cause(work))
		}
	})
	if s.beats < 100 || s.beats > 10*60/4+1 {
		t.Errorf("%d beats in ten minutes, want one each four seconds", s.beats)
	}
}

func TestHeartbeat_EndsWorkBeforeItsLeaseEnds(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "mine"}, away: true}
	beating(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		begun := time.Now()
		work := hold(lease{"row", "mine"})
		<-work.Done()
		if after := time.Since(begun); after < 10*time.Second || after > 11*time.Second || !errors.Is(context.Cause(work), ErrLeaseLost) {
			t.Errorf("told %v after %v that a lease of 12 s is lost", context.Cause(work), after)
		}
	})
}

func TestHeartbeat_EndsWorkWhoseLeaseAnotherHolds(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "another's"}}
	beating(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		begun := time.Now()
		work := hold(lease{"row", "mine"})
		<-work.Done()
		if after := time.Since(begun); after > 5*time.Second {
			t.Errorf("told after %v", after)
		}
	})
}

func TestHeartbeat_KeepsALeaseWhoseRowIsLocked(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "mine", "free": "mine"}, locked: map[string]bool{"row": true}}
	beating(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		locked, free := hold(lease{"row", "mine"}), hold(lease{"free", "mine"})
		time.Sleep(9 * time.Second)
		if locked.Err() != nil {
			t.Errorf("a locked row was called lost: %v", context.Cause(locked))
		}
		<-locked.Done() // its lease has not been extended, so it ends
		if !errors.Is(context.Cause(locked), ErrLeaseLost) || free.Err() != nil {
			t.Errorf("locked row: %v, the other one: %v", context.Cause(locked), free.Err())
		}
	})
}

func TestHeartbeat_RetriesAFailedRelease(t *testing.T) {
	for name, end := range map[string]func(*leaseManager, context.Context, lease) error{"release": (*leaseManager).release, "lapse": (*leaseManager).lapse} {
		t.Run(name, func(t *testing.T) {
			s := &table{tokens: map[string]string{"row": "mine"}, away: true}
			beating(t, s, func(t *testing.T, k *leaseManager, hold func(lease) context.Context) {
				work := hold(lease{"row", "mine"})
				if end(k, t.Context(), lease{"row", "mine"}) == nil {
					t.Error("given back to a database that is away")
				}
				short, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := k.wait(short); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("wait: %v, want that something is left", err)
				}
				s.set(false)
				if err := k.wait(t.Context()); err != nil || len(s.tokens) != 0 {
					t.Errorf("wait: %v, still leased: %v", err, s.tokens)
				}
				if work.Err() != nil {
					t.Errorf("what was given back was told %v", context.Cause(work))
				}
			})
			if cooled := len(s.lapsed) == 1; cooled != (name == "lapse") {
				t.Errorf("lapsed: %v", s.lapsed)
			}
		})
	}
}

func TestHeartbeat_KeepsALeaseTakenWhileItRan(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "old"}}
	k := newLeaseManager(&during{table: s, fn: func(k *leaseManager) {
		k.drop(lease{"row", "old"})
		k.add(lease{"row", "new"}, time.Now().Add(-time.Second), func(error) { t.Error("the new lease was lost") })
	}}, 12*time.Second, time.Now)
	k.store.(*during).k = k
	k.add(lease{"row", "old"}, time.Now(), func(error) {})
	if err := k.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k.expireLeases() != 0 || len(k.held) != 1 {
		t.Error("the new lease is gone")
	}
	if n := k.cancelAll(ErrNotRunning); n != 1 {
		t.Errorf("%d abandoned", n)
	}
}

// during does something while a beat is under way.
type during struct {
	*table
	k  *leaseManager
	fn func(*leaseManager)
}

func (d *during) heartbeat(ctx context.Context, ids []string) (extended, locked map[string]string, err error) {
	extended, locked, err = d.table.heartbeat(ctx, ids)
	d.fn(d.k)
	d.k.held["row"].lost = func(error) {} // from here on only abandon may tell it
	return extended, locked, err
}
