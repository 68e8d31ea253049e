package session

import (
	"context"
	"maps"
	"sync"
	"time"
)

// leaseManager extends the leases that this replica holds, all in one statement, and
// gives up those that it cannot be sure of any more.
type leaseManager struct {
	store leaseStore
	lease time.Duration
	now   func() time.Time

	mu    sync.Mutex
	held  map[string]*held
	empty sync.Cond // signalled when nothing is held
}

// leaseStore is what the leaseManager needs of the store.
type leaseStore interface {
	heartbeat(ctx context.Context, ids []string) (extended, locked map[string]string, err error)
	release(ctx context.Context, list []lease) error
	lapse(ctx context.Context, list []lease) error
}

// held is a lease in use. Work under it must stop when its context does.
type held struct {
	lease
	until time.Time // our clock; from then on the lease may be another's
	lost  context.CancelCauseFunc
	use   use
}

type use int

const (
	inUse          use = iota
	releasing          // being given back
	pendingRelease     // to be given back by a later heartbeat
	pendingLapse       // the same, to cool down
)

func newLeaseManager(s leaseStore, lease time.Duration, now func() time.Time) *leaseManager {
	k := &leaseManager{store: s, lease: lease, now: now, held: map[string]*held{}}
	k.empty.L = &k.mu
	return k
}

// add starts to keep a lease that was asked for at asked, on our clock.
func (k *leaseManager) add(l lease, asked time.Time, lost context.CancelCauseFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[l.id] = &held{lease: l, until: k.safe(asked), lost: lost}
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
	delete(k.held, id)
	if len(k.held) == 0 {
		k.empty.Broadcast()
	}
}

// release gives a lease back. Where the database cannot be reached in time, the
// heartbeats try again until the lease has ended by itself.
func (k *leaseManager) release(ctx context.Context, l lease) error {
	return k.end(ctx, l, k.store.release, pendingRelease)
}

// lapse is release for a session that has to cool down.
func (k *leaseManager) lapse(ctx context.Context, l lease) error {
	return k.end(ctx, l, k.store.lapse, pendingLapse)
}

func (k *leaseManager) end(ctx context.Context, l lease, end func(context.Context, []lease) error, pending use) error {
	k.mark(l, releasing)
	if err := end(ctx, []lease{l}); err != nil {
		k.mark(l, pending)
		return err
	}
	k.drop(l)
	return nil
}

func (k *leaseManager) mark(l lease, as use) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[l.id]; h != nil && h.token == l.token {
		h.use = as
	}
}

// safe is until when a lease taken at asked can be relied on: a sixth earlier
// than the database has it, for a holder that needs time to stop.
func (k *leaseManager) safe(asked time.Time) time.Time { return asked.Add(k.lease - k.lease/6) }

// heartbeat extends all leases, and ends those that are left over.
func (k *leaseManager) heartbeat(ctx context.Context) error {
	asked := k.now()
	k.mu.Lock()
	held := maps.Clone(k.held)
	var ids []string
	var release, lapse []lease
	for id, h := range held {
		switch h.use {
		case inUse:
			ids = append(ids, id)
		case pendingRelease:
			release = append(release, h.lease)
		case pendingLapse:
			lapse = append(lapse, h.lease)
		}
	}
	k.mu.Unlock()
	for _, pending := range []struct {
		list []lease
		end  func(context.Context, []lease) error
	}{{release, k.store.release}, {lapse, k.store.lapse}} {
		if len(pending.list) == 0 {
			continue
		}
		if err := pending.end(ctx, pending.list); err != nil {
			return err
		}
		for _, l := range pending.list {
			k.drop(l)
		}
	}
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
		case k.held[id] != h || h.use != inUse: // given back meanwhile, and perhaps leased again
		case extended[id] == h.token:
			h.until = k.safe(asked)
		case locked[id] == h.token: // it lasts until it ends by itself
		default: // another has it
			h.until = time.Time{}
		}
	}
	return nil
}

// expireLeases ends the work under leases that can no longer be relied on.
func (k *leaseManager) expireLeases() (lost int) {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, h := range k.held {
		if now.Before(h.until) {
			continue
		}
		if h.use == inUse {
			h.lost(ErrLeaseLost)
			lost++
		}
		k.remove(id)
	}
	return lost
}

// overdue reports whether a beat or a giving back has failed: some lease is older
// than a beat's interval, or left over.
func (k *leaseManager) overdue() bool {
	least := k.now().Add(k.lease * 2 / 5)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if h.use == pendingRelease || h.use == pendingLapse || h.use == inUse && h.until.Before(least) {
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
		if h.use == inUse {
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
