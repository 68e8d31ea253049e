package session

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// leaseManager keeps the leases that this replica holds. It extends all of them with one
// statement, ends the work under those that it can no longer rely on, lets the leases of
// requests linger, and releases them.
type leaseManager struct {
	store leaseStore
	lease time.Duration
	now   func() time.Time

	linger       time.Duration // how long a lease lingers; zero if none does
	onReleased   func(*row)    // called after a session has been released
	toRelease    retry.Trigger // fired when due has leases
	startPolling retry.Trigger // fired when there is a lease that may linger

	mu            sync.Mutex
	held          map[string]*heldLease
	idle          map[pool][]*heldLease // of these, leases whose requests have ended: lingering or releasing
	due           []*heldLease          // leases to release now
	uses          map[string]sessionUse // by the id of the session's row; at least those of the last sharedMemory
	pruned        int                   // how many uses were left when old ones were last removed
	lostUncounted int                   // leases lost since the last expireLeases, because this replica leased the session again
	lingerStopped bool                  // no lease may linger any more
	loopsEnded    bool                  // the loops that release leases have ended
	empty         sync.Cond             // signalled when held is empty
}

// leaseStore is what the leaseManager needs of the store.
type leaseStore interface {
	heartbeat(ctx context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error)
	// releaseUnlocked releases leases except those of locked rows, which it returns. If
	// busy is set, the sessions cool down.
	releaseUnlocked(ctx context.Context, list []lease, busy bool) (locked []lease, err error)
	neededElsewhere(ctx context.Context, ids []string) ([]string, error)
}

// heldLease is a lease that this replica holds. Work under it must stop when cancel is
// called.
type heldLease struct {
	lease
	until  time.Time // on this replica's clock; from then on another replica may hold the lease
	cancel context.CancelCauseFunc
	phase  leasePhase
	requestLease
}

// leasePhase is the phase of a lease. Only leases of requests leave the first one.
type leasePhase int

const (
	inUse     leasePhase = iota
	lingering            // no request uses it; one of this replica may take it until its time is over
	releasing            // being released in the database
)

func newLeaseManager(s leaseStore, lease, linger time.Duration, now func() time.Time, onReleased func(*row)) *leaseManager {
	lm := &leaseManager{store: s, lease: lease, linger: linger, now: now, onReleased: onReleased,
		toRelease: retry.NewTrigger(), startPolling: retry.NewTrigger(),
		held: map[string]*heldLease{}, idle: map[pool][]*heldLease{}, uses: map[string]sessionUse{}}
	lm.empty.L = &lm.mu
	return lm
}

// add adds a lease that no request holds. It was requested at sentAt, on this replica's
// clock. cancel is called when the lease is lost.
func (lm *leaseManager) add(l lease, sentAt time.Time, cancel context.CancelCauseFunc) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lm.insert(&heldLease{lease: l, until: lm.safeUntil(sentAt), cancel: cancel})
}

// insert adds a lease in the place of an older one of the same row. The caller holds the
// lock.
func (lm *leaseManager) insert(h *heldLease) {
	if old := lm.held[h.id]; old != nil {
		// The older lease was released, but the reply has not come yet; or it has lapsed,
		// and its request does not know that yet.
		if old.row != nil && old.phase == inUse {
			old.cancel(ErrLeaseLost)
			lm.lostUncounted++
		}
		lm.remove(h.id)
	}
	lm.held[h.id] = h
}

// drop removes a lease, unless its row has been leased again.
func (lm *leaseManager) drop(l lease) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	if h := lm.held[l.id]; h != nil && h.token == l.token {
		lm.remove(l.id)
	}
}

// remove removes the lease of a row. The caller holds the lock.
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

// safeUntil returns until when a lease requested at sentAt can be relied on. It is a sixth
// of a lease earlier than in the database, because its holder needs time to stop.
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
		case locked[id] == h.token: // not extended, but still held
		default: // it is lost
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
	lost, lm.lostUncounted = lm.lostUncounted, 0
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

// overdue reports whether some lease was not extended by the last heartbeat.
func (lm *leaseManager) overdue() bool {
	minUntil := lm.now().Add(lm.lease * 2 / 5)
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, h := range lm.held {
		if h.phase != releasing && h.until.Before(minUntil) {
			return true
		}
	}
	return false
}

// cancelAll cancels all work under leases. It returns how many leases are in use.
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

// wait waits until no lease is held. It returns the context's error if that ends first.
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
