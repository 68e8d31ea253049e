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

	linger    time.Duration // for how long a lease lingers; zero: none does
	freed     func(*row)    // called after a session has been released
	toRelease retry.Trigger // fired when leases are to be released
	lingers   retry.Trigger // fired when there is a lease that may linger

	mu       sync.Mutex
	held     map[string]*held
	resting  map[pool][]*held // of these, the requests' that are not in use
	due      []*held          // of these, those that are to be released now
	uses     map[string]use   // of a session's row; those of the last sharedMemory at least
	pruned   int              // how many uses there were after old ones were last removed
	replaced int              // requests whose lease was lost because the session was leased again here; until expireLeases counts them
	closed   bool             // nothing lingers any more
	stopped  bool             // and the loops that release leases have ended
	empty    sync.Cond        // signalled when nothing is held
}

// leaseStore is what the leaseManager needs of the store.
type leaseStore interface {
	heartbeat(ctx context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error)
	// releaseUnlocked ends leases, but those of locked rows, which it returns. With busy the
	// sessions cool down.
	releaseUnlocked(ctx context.Context, list []lease, busy bool) (locked []lease, err error)
	needed(ctx context.Context, ids []string) ([]string, error)
}

// held is a lease that this replica has. Work under it must stop when its context does.
type held struct {
	lease
	until time.Time // our clock; from then on the lease may be another's
	lost  context.CancelCauseFunc
	phase leasePhase
	handOver
}

type leasePhase int

const (
	inUse     leasePhase = iota
	lingering            // nobody's, until a request of this replica takes it or its time is over
	releasing            // on its way back to the database
)

func newLeaseManager(s leaseStore, lease, linger time.Duration, now func() time.Time, freed func(*row)) *leaseManager {
	k := &leaseManager{store: s, lease: lease, linger: linger, now: now, freed: freed,
		toRelease: retry.NewTrigger(), lingers: retry.NewTrigger(),
		held: map[string]*held{}, resting: map[pool][]*held{}, uses: map[string]use{}}
	k.empty.L = &k.mu
	return k
}

// add starts to keep a lease that was requested at sentAt, on our clock.
func (k *leaseManager) add(l lease, sentAt time.Time, lost context.CancelCauseFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keep(&held{lease: l, until: k.safe(sentAt), lost: lost})
}

// keep adds a lease. The caller holds the lock.
func (k *leaseManager) keep(h *held) {
	if old := k.held[h.id]; old != nil {
		// The database released the old lease and its reply is still on its way,
		// or the old lease ended by itself and its request does not know yet.
		if old.row != nil && old.phase == inUse {
			old.lost(ErrLeaseLost)
			k.replaced++
		}
		k.remove(h.id)
	}
	k.held[h.id] = h
}

// drop stops keeping a lease, unless the row has been leased again.
func (k *leaseManager) drop(l lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[l.id]; h != nil && h.token == l.token {
		k.remove(l.id)
	}
}

// remove forgets a lease. The caller holds the lock.
func (k *leaseManager) remove(id string) {
	if h := k.held[id]; h != nil && h.row != nil {
		k.endRest(h)
		close(h.released)
	}
	delete(k.held, id)
	if len(k.held) == 0 {
		k.empty.Broadcast()
	}
}

// safe is until when a lease requested at sentAt can be relied on: a sixth earlier
// than the database has it, for a holder that needs time to stop.
func (k *leaseManager) safe(sentAt time.Time) time.Time { return sentAt.Add(k.lease - k.lease/6) }

// heartbeat extends the leases that are in use or linger.
func (k *leaseManager) heartbeat(ctx context.Context) error {
	sentAt := k.now()
	k.mu.Lock()
	held := maps.Clone(k.held)
	var ids []string
	for id, h := range held {
		if h.phase != releasing {
			ids = append(ids, id)
		}
	}
	k.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	extended, locked, err := k.store.heartbeat(ctx, ids)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		switch h := held[id]; {
		case k.held[id] != h || h.phase == releasing: // released meanwhile, and perhaps leased again
		case extended[id].Token == h.token:
			h.until = k.safe(sentAt)
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
func (k *leaseManager) expireLeases() (lost int) {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	lost, k.replaced = k.replaced, 0
	for id, h := range k.held {
		if now.Before(h.until) {
			continue
		}
		if h.phase == inUse {
			h.lost(ErrLeaseLost)
			lost++
		}
		k.remove(id)
	}
	return lost
}

// overdue reports whether a heartbeat has failed: some lease is older than its interval.
func (k *leaseManager) overdue() bool {
	least := k.now().Add(k.lease * 2 / 5)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if h.phase != releasing && h.until.Before(least) {
			return true
		}
	}
	return false
}

// cancelAll ends all work under leases, and reports how much there was.
func (k *leaseManager) cancelAll(cause error) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if h.phase == inUse {
			h.lost(cause)
			n++
		}
	}
	return n
}

// wait returns when nothing is held any more, or with the context's error.
func (k *leaseManager) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.empty.Broadcast()
	})
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.held) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		k.empty.Wait()
	}
	return nil
}
