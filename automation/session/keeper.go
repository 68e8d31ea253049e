package session

import (
	"context"
	"sync"
	"time"
)

// keeper extends the leases that this replica holds, all in one statement, and
// gives up those that it cannot be sure of any more.
type keeper struct {
	store *store
	lease time.Duration
	now   func() time.Time

	mu    sync.Mutex
	held  map[string]*held
	empty sync.Cond // signalled when nothing is held
}

// held is a lease in use. Work under it must stop when its context does.
type held struct {
	lease
	until time.Time // our clock; from then on the lease may be another's
	lost  context.CancelCauseFunc
}

func newKeeper(s *store, now func() time.Time) *keeper {
	k := &keeper{store: s, lease: s.lease, now: now, held: map[string]*held{}}
	k.empty.L = &k.mu
	return k
}

// add starts to keep a lease that was asked for at asked, on our clock.
func (k *keeper) add(l lease, asked time.Time, lost context.CancelCauseFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[l.id] = &held{lease: l, until: k.safe(asked), lost: lost}
}

// drop stops keeping a lease, unless the row has been leased anew.
func (k *keeper) drop(l lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[l.id]; h != nil && h.token == l.token {
		delete(k.held, l.id)
	}
	if len(k.held) == 0 {
		k.empty.Broadcast()
	}
}

// safe is until when a lease taken at asked can be relied on: a sixth earlier
// than the database has it, for a holder that needs time to stop.
func (k *keeper) safe(asked time.Time) time.Time { return asked.Add(k.lease - k.lease/6) }

// beat extends all leases.
func (k *keeper) beat(ctx context.Context) error {
	asked := k.now()
	k.mu.Lock()
	ids := make([]string, 0, len(k.held))
	for id := range k.held {
		ids = append(ids, id)
	}
	k.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	kept, err := k.store.heartbeat(ctx, ids)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		switch h := k.held[id]; {
		case h == nil: // released meanwhile
		case kept[id] == h.token:
			h.until = k.safe(asked)
		case h.until.Before(k.safe(asked)): // taken before the beat, so it is gone
			h.until = time.Time{}
		}
	}
	return nil
}

// check ends the work under leases that can no longer be relied on.
func (k *keeper) check() (lost int) {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, h := range k.held {
		if now.Before(h.until) {
			continue
		}
		h.lost(ErrLeaseLost)
		delete(k.held, id)
		lost++
	}
	if len(k.held) == 0 {
		k.empty.Broadcast()
	}
	return lost
}

// late tells whether a beat has failed: some lease is older than a beat's interval.
func (k *keeper) late() bool {
	least := k.now().Add(k.lease * 2 / 5)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if h.until.Before(least) {
			return true
		}
	}
	return false
}

// abandon ends all work under leases.
func (k *keeper) abandon(cause error) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		h.lost(cause)
	}
	return len(k.held)
}

// wait returns when nothing is held any more, or with the context's error.
func (k *keeper) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.empty.Broadcast()
	})
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.held) > 0 && ctx.Err() == nil {
		k.empty.Wait()
	}
	return ctx.Err()
}
