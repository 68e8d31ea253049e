package session

import (
	"context"
	"slices"
	"time"
)

// When a request has ended, its replica keeps the session's lease for Options.Linger.
// The next request of the same pool there takes it without asking the database. docs/session-states.md argues why this is safe and what it costs others.

const (
	maxLinger = 2 * time.Second
	// For how long after the database was asked for a lease, and how often, a
	// replica hands it over before all replicas may have it.
	maxHandOverTime = 2 * time.Second
	maxHandOvers    = 64
	// sharedMemory is for how long no lease lingers after another replica was seen
	// to need the session.
	sharedMemory = 10 * time.Second
	// releaseWait is how long a request waits for a session that is being released
	// here before it asks the database for another one.
	releaseWait = 250 * time.Millisecond
)

// takeLingering takes a session that lingers in this replica for a request. If none
// will do, it waits for those of the pool that are being released, for releaseWait at
// most, because the request would otherwise find them in use.
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

// recall has the lingering leases of matching sessions released, and waits for that.
func (m *Manager) recall(ctx context.Context, matches func(*row) bool) {
	if m.leases.linger > 0 {
		waitAll(ctx, m.leases.recall(matches))
	}
}

// waitAll waits until leases have been released, for releaseWait at most.
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

// mayLinger reports whether a session's lease may linger. A model that keeps an idle
// session ready for all its users would not count one that lingers.
func (m *Manager) mayLinger(r *row) bool {
	if r.OwnerID != "" || m.opts.Prewarm == nil {
		return true
	}
	models := m.prewarmed.Load()
	return models != nil && !slices.Contains(*models, r.ModelID)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
