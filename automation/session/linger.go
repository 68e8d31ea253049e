package session

import (
	"context"
	"slices"
	"time"
)

// When a request has ended, its replica keeps the session's lease for Options.Linger. The
// next request for the same pool in this replica gets it without a query.
// docs/session-states.md explains why this is safe and what it costs others.

const (
	maxLinger = 2 * time.Second // the upper bound of Options.Linger
	// For how long, and how often, a replica hands over a lease before it releases it so
	// that all replicas may claim the session. The time counts from the lease's request.
	maxHandOverTime = 2 * time.Second
	maxHandOvers    = 64
	// sharedMemory is how long no lease of a session lingers after another replica was
	// seen to need the session.
	sharedMemory = 10 * time.Second
	// releaseWait is how long a request waits for a session that is being released
	// here before it asks the database for another one.
	releaseWait = 250 * time.Millisecond
)

// takeLingering claims a session that lingers in this replica. If none is suitable, it
// returns nil. Before, it waits up to releaseWait for the sessions of the pool that are
// being released, because the database would still have them in use.
func (m *Manager) takeLingering(ctx context.Context, p pool, req Request, paid bool) *Claim {
	if m.leases.linger == 0 || ctx.Err() != nil || !m.leases.hasIdle(p) {
		return nil
	}
	avoided := m.providers.avoided(req.UserID)
	c := m.newClaim(ctx, req, paid)
	var releases []<-chan struct{}
	c.row, c.lease, releases = m.leases.take(p, func(r *row) bool {
		return !slices.Contains(avoided, r.Provider) && (req.OmitProvider == "" || r.Provider != req.OmitProvider)
	}, m.margin(req.Duration), c.lose)
	if c.row != nil {
		c.begun, c.handedOver = m.opts.Now(), true
		return c
	}
	c.lose(context.Canceled)
	waitAll(ctx, releases)
	return nil
}

// recall releases the lingering leases of matching sessions, and waits up to releaseWait
// for that.
func (m *Manager) recall(ctx context.Context, matches func(*row) bool) {
	if m.leases.linger > 0 {
		waitAll(ctx, m.leases.recall(matches))
	}
}

// waitAll waits until all channels are closed, for releaseWait at most.
func waitAll(ctx context.Context, releases []<-chan struct{}) {
	if len(releases) == 0 {
		return
	}
	timeout := time.NewTimer(releaseWait)
	defer timeout.Stop()
	for _, released := range releases {
		select {
		case <-released:
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// mayLinger reports whether a session's lease may linger. It may not if the session is
// shared and its model keeps an idle session ready: a lingering session does not count as
// idle, so another one would be opened.
func (m *Manager) mayLinger(r *row) bool {
	if r.OwnerID != "" || m.opts.Prewarm == nil {
		return true
	}
	models := m.prewarmed.Load()
	return models != nil && !slices.Contains(*models, r.ModelID)
}

// seconds converts a number of seconds.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
