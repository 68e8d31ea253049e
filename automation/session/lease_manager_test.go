package session

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLeaseStore is a leaseStore in memory that can be unavailable.
type fakeLeaseStore struct {
	mu          sync.Mutex
	tokens      map[string]string // by id
	locked      map[string]bool   // rows that another transaction has locked
	lapsed      []string          // ids of leases that were left to lapse
	unavailable bool
	state       string  // of all sessions
	left        float64 // seconds until all sessions end

	heartbeats, releases int // calls
}

func (s *fakeLeaseStore) setUnavailable(unavailable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unavailable = unavailable
}

func (s *fakeLeaseStore) heartbeat(_ context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heartbeats++; s.unavailable {
		return nil, nil, errors.New("unavailable")
	}
	extended, locked = map[string]confirmed{}, map[string]string{}
	for _, id := range ids {
		token, ok := s.tokens[id]
		switch {
		case ok && s.locked[id]:
			locked[id] = token
		case ok:
			extended[id] = confirmed{ID: id, Token: token, State: s.state, Left: s.left}
		}
	}
	return extended, locked, nil
}

func (s *fakeLeaseStore) releaseUnlocked(_ context.Context, list []lease, busy bool) (locked []lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.releases++; s.unavailable {
		return nil, errors.New("unavailable")
	}
	for _, l := range list {
		switch {
		case s.tokens[l.id] != l.token:
		case s.locked[l.id]:
			locked = append(locked, l)
		case busy:
			s.lapsed = append(s.lapsed, l.id)
			fallthrough
		default:
			delete(s.tokens, l.id)
		}
	}
	return locked, nil
}

func (s *fakeLeaseStore) neededElsewhere(context.Context, []string) ([]string, error) {
	return nil, nil
}

// runHeartbeats runs a manager's lease loops on the store in a synctest bubble. The
// function hold adds a lease and returns the context of its work.
func runHeartbeats(t *testing.T, s *fakeLeaseStore, fn func(t *testing.T, lm *leaseManager, hold func(l lease) context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts, err := Options{Lease: 12 * time.Second}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		m := &Manager{opts: opts, leases: newLeaseManager(s, opts.Lease, 0, time.Now, func(*row) {})}
		ctx, cancel := context.WithCancel(t.Context())
		go m.heartbeatLoop(ctx)
		go m.expiryLoop(ctx)
		go m.releaseLoop(ctx)
		fn(t, m.leases, func(l lease) context.Context {
			work, cancelWork := context.WithCancelCause(ctx)
			m.leases.addSession(l, time.Now(), cancelWork, &row{ID: l.id}, false)
			return work
		})
		cancel()
		synctest.Wait()
	})
}

func TestHeartbeat_KeepsLeasesWhileTheDatabaseAnswers(t *testing.T) {
	s := &fakeLeaseStore{tokens: map[string]string{"row": "mine"}}
	runHeartbeats(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		work := hold(lease{"row", "mine"})
		time.Sleep(10 * time.Minute)
		if work.Err() != nil {
			t.Errorf("the lease was lost: %v", context.Cause(work))
		}
	})
	if s.heartbeats < 100 || s.heartbeats > 10*60/4+1 {
		t.Errorf("%d heartbeats in ten minutes, want one every four seconds", s.heartbeats)
	}
}

func TestHeartbeat_EndsWorkBeforeItsLeaseEnds(t *testing.T) {
	s := &fakeLeaseStore{tokens: map[string]string{"row": "mine"}, unavailable: true}
	runHeartbeats(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		begun := time.Now()
		work := hold(lease{"row", "mine"})
		<-work.Done()
		if after := time.Since(begun); after < 10*time.Second || after > 11*time.Second || !errors.Is(context.Cause(work), ErrLeaseLost) {
			t.Errorf("work under a lease of 12 s ended with %v after %v, want ErrLeaseLost after 10 to 11 s", context.Cause(work), after)
		}
	})
}

func TestHeartbeat_EndsWorkIfAnotherReplicaHoldsItsLease(t *testing.T) {
	s := &fakeLeaseStore{tokens: map[string]string{"row": "another's"}}
	runHeartbeats(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		begun := time.Now()
		work := hold(lease{"row", "mine"})
		<-work.Done()
		if after := time.Since(begun); after > 5*time.Second {
			t.Errorf("the work ended after %v, want at the first heartbeat", after)
		}
	})
}

func TestHeartbeat_KeepsALeaseWhoseRowIsLocked(t *testing.T) {
	s := &fakeLeaseStore{tokens: map[string]string{"row": "mine", "free": "mine"}, locked: map[string]bool{"row": true}}
	runHeartbeats(t, s, func(t *testing.T, _ *leaseManager, hold func(lease) context.Context) {
		locked, free := hold(lease{"row", "mine"}), hold(lease{"free", "mine"})
		time.Sleep(9 * time.Second)
		if locked.Err() != nil {
			t.Errorf("the lease of a locked row was lost before its end: %v", context.Cause(locked))
		}
		<-locked.Done() // its lease has not been extended, so it ends
		if !errors.Is(context.Cause(locked), ErrLeaseLost) || free.Err() != nil {
			t.Errorf("work on the locked row ended with %v, want ErrLeaseLost; on the other row with %v, want none", context.Cause(locked), free.Err())
		}
	})
}

func TestHeartbeat_RetriesAFailedRelease(t *testing.T) {
	for name, busy := range map[string]bool{"release": false, "lapse": true} {
		t.Run(name, func(t *testing.T) {
			s := &fakeLeaseStore{tokens: map[string]string{"row": "mine"}, unavailable: true}
			runHeartbeats(t, s, func(t *testing.T, lm *leaseManager, hold func(lease) context.Context) {
				work := hold(lease{"row", "mine"})
				lm.end(lease{"row", "mine"}, busy)
				short, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := lm.wait(short); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("wait with an unavailable database: %v, want DeadlineExceeded", err)
				}
				s.setUnavailable(false)
				if err := lm.wait(t.Context()); err != nil || len(s.tokens) != 0 {
					t.Errorf("wait: %v, leases left %v; want no error and none left", err, s.tokens)
				}
				if work.Err() != nil {
					t.Errorf("the work of a released lease ended with %v", context.Cause(work))
				}
			})
			if hasLapsed := len(s.lapsed) == 1; hasLapsed != busy {
				t.Errorf("leases left to lapse: %v, want one: %t", s.lapsed, busy)
			}
			if s.releases < 2 || s.releases > 20 {
				t.Errorf("%d attempts to release within a second, want 2 to 20", s.releases)
			}
		})
	}
}

func TestHeartbeat_UpdatesWhatMayBeHandedOver(t *testing.T) {
	for name, tt := range map[string]struct {
		state string
		left  float64
		want  bool
	}{
		"an open session":               {stateOpen, 60, true},
		"a session that its user ended": {stateEnding, 60, false},
		"a session within its margin":   {stateOpen, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &fakeLeaseStore{tokens: map[string]string{"row": "mine"}, state: tt.state, left: tt.left}
			synctest.Test(t, func(t *testing.T) {
				lm := newLeaseManager(s, 12*time.Second, time.Second, time.Now, nil)
				r := &row{ID: "row", Left: 3600}
				lm.addSession(lease{"row", "mine"}, time.Now(), nil, r, true)
				lm.held["row"].allowed = true
				if err := lm.heartbeat(t.Context()); err != nil {
					t.Fatal(err)
				}
				lm.end(lease{"row", "mine"}, false)
				if r, _, _ := lm.take(pool{}, func(*row) bool { return true }, 30*time.Second, nil); (r != nil) != tt.want {
					t.Errorf("handed over: %t, want %t", r != nil, tt.want)
				}
			})
		})
	}
}

// A process that was suspended must not hand a lease over before it knows that the lease is still
// its own: the lease's age alone forbids that.
func TestLinger_HandsNothingOverAfterASuspension(t *testing.T) {
	for suspended, want := range map[time.Duration]bool{0: true, 1400 * time.Millisecond: true, 1600 * time.Millisecond: false, time.Hour: false} {
		now := time.Now()
		lm := newLeaseManager(&fakeLeaseStore{}, 3*time.Second, maxLinger, func() time.Time { return now }, nil)
		lm.addSession(lease{"row", "mine"}, now, nil, &row{ID: "row", Left: 2 * time.Hour.Seconds()}, true)
		lm.held["row"].allowed = true
		lm.end(lease{"row", "mine"}, false)
		now = now.Add(suspended)
		if r, _, releases := lm.take(pool{}, func(*row) bool { return true }, time.Minute, nil); (r != nil) != want || (len(releases) == 0) != want {
			t.Errorf("after %v: handed over %t, %d releases; want handed over %t, and released otherwise", suspended, r != nil, len(releases), want)
		}
	}
}

func TestRelease_OfALostLeaseKeepsTheNewOne(t *testing.T) {
	lm := newLeaseManager(&fakeLeaseStore{}, 12*time.Second, time.Second, time.Now, nil)
	lm.addSession(lease{"row", "lost"}, time.Now(), func(error) {}, &row{ID: "row"}, true)
	lm.addSession(lease{"row", "new"}, time.Now(), nil, &row{ID: "row"}, true)
	lm.end(lease{"row", "lost"}, false)
	if h := lm.held["row"]; h.phase != inUse || lm.hasIdle(pool{}) {
		t.Error("the new lease of the session is no longer in use")
	}
	lm.end(lease{"row", "new"}, false)
	if !lm.hasIdle(pool{}) {
		t.Error("the new lease is still in use")
	}
}

// A replica that was stopped for longer than a lease and its cool-down may claim a session
// again before it has found out that its older request has lost the lease.
func TestLeaseManager_EndsTheRequestWhoseSessionIsLeasedAgain(t *testing.T) {
	lm := newLeaseManager(&fakeLeaseStore{}, 12*time.Second, time.Second, time.Now, nil)
	older, loseOlder := context.WithCancelCause(t.Context())
	newer, loseNewer := context.WithCancelCause(t.Context())
	defer loseNewer(nil)
	lm.addSession(lease{"row", "older"}, time.Now(), loseOlder, &row{ID: "row"}, true)
	lm.addSession(lease{"row", "newer"}, time.Now(), loseNewer, &row{ID: "row"}, true)
	if cause := context.Cause(older); !errors.Is(cause, ErrLeaseLost) {
		t.Errorf("the older request's context ended with %v, want ErrLeaseLost", cause)
	}
	if newer.Err() != nil {
		t.Errorf("the newer request's context ended with %v, want it to continue", context.Cause(newer))
	}
	if n := lm.expireLeases(); n != 1 {
		t.Errorf("expireLeases counts %d lost leases, want 1", n)
	}
	if n := lm.expireLeases(); n != 0 {
		t.Errorf("expireLeases counts %d lost leases in a second call, want 0", n)
	}
}

// The row of an open becomes a session, and may be claimed, before its opener has dropped its lease.
func TestLeaseManager_DoesNotEndTheOpenWhoseSessionIsLeased(t *testing.T) {
	lm := newLeaseManager(&fakeLeaseStore{}, 12*time.Second, time.Second, time.Now, nil)
	lm.add(lease{"row", "open"}, time.Now(), func(cause error) { t.Errorf("the open was ended with %v", cause) })
	lm.addSession(lease{"row", "request"}, time.Now(), nil, &row{ID: "row"}, true)
	if n := lm.expireLeases(); n != 0 {
		t.Errorf("expireLeases counts %d lost leases, want 0", n)
	}
}

func TestHeartbeat_KeepsALeaseTakenWhileItRan(t *testing.T) {
	s := &fakeLeaseStore{tokens: map[string]string{"row": "old"}}
	lm := newLeaseManager(&duringHeartbeat{fakeLeaseStore: s, fn: func(lm *leaseManager) {
		lm.drop(lease{"row", "old"})
		lm.add(lease{"row", "new"}, time.Now().Add(-time.Second), func(error) { t.Error("the new lease was lost") })
	}}, 12*time.Second, 0, time.Now, nil)
	lm.store.(*duringHeartbeat).lm = lm
	lm.add(lease{"row", "old"}, time.Now(), func(error) {})
	if err := lm.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lm.expireLeases() != 0 || len(lm.held) != 1 {
		t.Error("the heartbeat dropped the lease that was added while it ran")
	}
	if n := lm.cancelAll(ErrNotRunning); n != 1 {
		t.Errorf("cancelAll cancelled %d leases, want 1", n)
	}
}

// duringHeartbeat is a store that calls fn while a heartbeat is under way.
type duringHeartbeat struct {
	*fakeLeaseStore
	lm *leaseManager
	fn func(*leaseManager)
}

func (d *duringHeartbeat) heartbeat(ctx context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error) {
	extended, locked, err = d.fakeLeaseStore.heartbeat(ctx, ids)
	d.fn(d.lm)
	d.lm.held["row"].cancel = func(error) {} // from here on only cancelAll may call it
	return extended, locked, err
}
