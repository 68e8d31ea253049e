package session

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// leaseManager extends the leases that this replica holds, all in one statement, and
// gives up those that it cannot be sure of any more.
type leaseManager struct {
	store leaseStore
	lease time.Duration
	now   func() time.Time

	linger       time.Duration // for how long a lease lingers; zero: none does
	onReleased   func(*row)    // called after a session has been released
	toRelease    retry.Trigger // fired when leases are to be released
	startPolling retry.Trigger // fired when there is a lease that may linger

	mu            sync.Mutex
	held          map[string]*heldLease
	idle          map[pool][]*heldLease // of these, the requests' that are not in use
	due           []*heldLease          // of these, those that are to be released now
	uses          map[string]sessionUse // of a session's row; those of the last sharedMemory at least
	pruned        int                   // how many uses there were after old ones were last removed
	replaced      int                   // requests whose lease was lost because the session was leased again here; until expireLeases counts them
	lingerStopped bool                  // nothing lingers any more
	loopsEnded    bool                  // and the loops that release leases have ended
	empty         sync.Cond             // signalled when nothing is held
}

// leaseStore is what the leaseManager needs of the store.
type leaseStore interface {
	heartbeat(ctx context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error)
	// releaseUnlocked ends leases, but those of locked rows, which it returns. With busy the
	// sessions cool down.
	releaseUnlocked(ctx context.Context, list []lease, busy bool) (locked []lease, err error)
	neededElsewhere(ctx context.Context, ids []string) ([]string, error)
}

// heldLease is a lease that this replica has. Work under it must stop when its context does.
type heldLease struct {
	lease
	until  time.Time // our clock; from then on the lease may be another's
	cancel context.CancelCauseFunc
	phase  leasePhase
	handOver
}

type leasePhase int

const (
	inUse     leasePhase = iota
	lingering            // nobody's, until a request of this replica takes it or its time is over
	releasing            // on its way back to the database
)

func newLeaseManager(s leaseStore, lease, linger time.Duration, now func() time.Time, freed func(*row)) *leaseManager {
	lm := &leaseManager{store: s, lease: lease, linger: linger, now: now, onReleased: freed,
		toRelease: retry.NewTrigger(), startPolling: retry.NewTrigger(),
		held: map[string]*heldLease{}, idle: map[pool][]*heldLease{}, uses: map[string]sessionUse{}}
	lm.empty.L = &lm.mu
	return lm
}

// add starts to keep a lease that was requested at sentAt, on our clock.
func (lm *leaseManager) add(l lease, sentAt time.Time, lost context.CancelCauseFunc) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lm.insert(&heldLease{lease: l, until: lm.safeUntil(sentAt), cancel: lost})
}

// insert adds a lease. The caller holds the lock.
func (lm *leaseManager) insert(h *heldLease) {
	if old := lm.held[h.id]; old != nil {
		// The database released the old lease and its reply is still on its way,
		// or the old lease ended by itself and its request does not know yet.
		if old.row != nil && old.phase == inUse {
			old.cancel(ErrLeaseLost)
			lm.replaced++
		}
		lm.remove(h.id)
	}
	lm.held[h.id] = h
}

// drop stops keeping a lease, unless the row has been leased again.
func (lm *leaseManager) drop(l lease) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	if h := lm.held[l.id]; h != nil && h.token == l.token {
		lm.remove(l.id)
	}
}

// remove forgets a lease. The caller holds the lock.
func (lm *leaseManager) remove(id string) {
	if h := lm.held[id]; h != nil && h.row != nil {
		lm.removeIdle(h)
		close(h.released)
	}
	delete(lm.held, id)
	if len(lm.held) == 0 {
		lm.empty.Broadcast()
	}
}

// safeUntil is until when a lease requested at sentAt can be relied on: a sixth earlier
// than the database has it, for a holder that needs time to stop.
func (lm *leaseManager) safeUntil(sentAt time.Time) time.Time {
	return sentAt.Add(lm.lease - lm.lease/6)
}

// heartbeat extends the leases that are in use or linger.
func (lm *leaseManager) heartbeat(ctx context.Context) error {
	sentAt := lm.now()
	lm.mu.Lock()
	held := maps.Clone(lm.held)
	var ids []string
	for id, h := range held {
		if h.phase != releasing {
			ids = append(ids, id)
		}
	}
	lm.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	extended, locked, err := lm.store.heartbeat(ctx, ids)
	if err != nil {
		return err
	}
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, id := range ids {
		switch h := held[id]; {
		case lm.held[id] != h || h.phase == releasing: // released meanwhile, and perhaps leased again
		case extended[id].Token == h.token:
			h.until = lm.safeUntil(sentAt)
			h.confirm(sentAt, extended[id])
		case locked[id] == h.token: // it lasts until it ends by itself
		default: // another has it
			h.until = time.Time{}
		}
	}
	return nil
}

// expireLeases ends the work under leases that can no longer be relied on. It returns
// how many requests have lost their lease since the last call.
func (lm *leaseManager) expireLeases() (lost int) {
	now := lm.now()
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lost, lm.replaced = lm.replaced, 0
	for id, h := range lm.held {
		if now.Before(h.until) {
			continue
		}
		if h.phase == inUse {
			h.cancel(ErrLeaseLost)
			lost++
		}
		lm.remove(id)
	}
	return lost
}

// overdue reports whether a heartbeat has failed: some lease is older than its interval.
func (lm *leaseManager) overdue() bool {
	least := lm.now().Add(lm.lease * 2 / 5)
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, h := range lm.held {
		if h.phase != releasing && h.until.Before(least) {
			return true
		}
	}
	return false
}

// cancelAll ends all work under leases, and reports how much there was.
func (lm *leaseManager) cancelAll(cause error) (n int) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, h := range lm.held {
		if h.phase == inUse {
			h.cancel(cause)
			n++
		}
	}
	return n
}

// wait returns when nothing is held any more, or with the context's error.
func (lm *leaseManager) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		lm.mu.Lock()
		defer lm.mu.Unlock()
		lm.empty.Broadcast()
	})
	defer stop()
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for len(lm.held) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		lm.empty.Wait()
	}
	return nil
}
