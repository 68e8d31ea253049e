package session

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Run works until ctx ends: it extends leases and does the maintenance. Then
// it gives no more claims, waits DrainTimeout at most for requests and opens
// that are under way, ends the rest, and returns when all it started has
// ended. It can be called once.
func (m *Manager) Run(ctx context.Context) error {
	live, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	m.mu.Lock()
	if m.phase != idle {
		m.mu.Unlock()
		return errors.New("session: Run was called twice")
	}
	m.phase, m.base = running, live
	m.mu.Unlock()

	var hearts sync.WaitGroup
	hearts.Go(func() { m.beat(live) })
	m.tend(ctx)

	m.mu.Lock()
	m.phase = ending
	close(m.ending)
	m.mu.Unlock()
	m.drain(live, stop)
	hearts.Wait()
	return nil
}

// drain waits for what is under way, within bounds.
func (m *Manager) drain(live context.Context, stop context.CancelCauseFunc) {
	ctx, cancel := context.WithTimeout(live, m.opts.DrainTimeout)
	defer cancel()
	if err := m.keeper.wait(ctx); err != nil {
		n := m.keeper.abandon(ErrNotRunning)
		m.opts.Logger.Warn("ended work that did not end by itself in time", "count", n, "timeout", m.opts.DrainTimeout)
	}
	stop(ErrNotRunning) // opens under way become intents in doubt
	m.opening.Wait()
}

// beat keeps the leases. It looks more often than it beats, since a lease that
// cannot be extended must be given up in time.
func (m *Manager) beat(ctx context.Context) {
	tick := time.NewTicker(max(m.opts.Lease/12, time.Millisecond))
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if i%4 == 0 || m.keeper.late() {
			// Bounded, so that a hanging database does not keep us from
			// giving up what it holds.
			beat, cancel := context.WithTimeout(ctx, m.opts.Lease/6)
			if err := m.keeper.beat(beat); err != nil && ctx.Err() == nil {
				m.opts.Logger.Warn("leases not extended, trying again", "error", err)
			}
			cancel()
		}
		if n := m.keeper.check(); n > 0 {
			m.opts.Logger.Error("leases lost, the requests that held them were ended", "count", n)
		}
	}
}

// tend does rounds of maintenance until ctx ends.
func (m *Manager) tend(ctx context.Context) {
	timer := time.NewTimer(jitter(m.opts.Interval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.nudge:
		case <-timer.C:
		}
		if err := m.Tend(ctx); err != nil && ctx.Err() == nil {
			m.opts.Logger.Warn("session maintenance", "error", err)
		}
		timer.Reset(jitter(m.opts.Interval))
	}
}
