package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Run works until ctx ends: it extends leases and does the maintenance. Then
// it gives no more claims, waits DrainTimeout at most for requests and opens
// that are under way, ends the rest, writes down what became of it, and
// returns when all it started has ended. It can be called once.
func (m *Manager) Run(ctx context.Context) error {
	live, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	m.mu.Lock()
	if m.phase != idle {
		m.mu.Unlock()
		return errors.New("session: Run was called twice")
	}
	m.phase, m.base = running, live
	close(m.started)
	m.mu.Unlock()

	var heartbeats, rounds sync.WaitGroup
	heartbeats.Go(func() { m.heartbeatLoop(live) })
	heartbeats.Go(func() { m.expiryLoop(live) })
	for range releasers {
		heartbeats.Go(func() { m.releaseLoop(live) })
	}
	heartbeats.Go(func() { m.pollLoop(live) })
	rounds.Go(func() { m.maintenanceLoop(ctx, "opens", m.reconcileNow, m.maintainOpens) })
	rounds.Go(func() { m.maintenanceLoop(ctx, "closes", m.sweepNow, m.sweep) })

	<-ctx.Done()
	m.mu.Lock()
	m.phase = ending
	close(m.ending)
	m.mu.Unlock()
	m.leases.stopLingering()
	rounds.Wait()
	m.drain(live, stop)
	heartbeats.Wait()
	m.leases.noteLoopsEnded()
	m.releaseDue(live) // what was released since
	return nil
}

// Started is closed when Run has begun to give claims.
func (m *Manager) Started() <-chan struct{} { return m.started }

// drain waits for what is under way, within bounds.
func (m *Manager) drain(live context.Context, stop context.CancelCauseFunc) {
	ctx, cancel := context.WithTimeout(live, m.opts.DrainTimeout)
	defer cancel()
	if m.leases.wait(ctx) != nil {
		n := m.leases.cancelAll(ErrNotRunning)
		m.opts.Logger.Warn("ended work that did not end by itself in time", "count", n, "timeout", m.opts.DrainTimeout)
		ctx, cancel := m.detached(live)
		defer cancel()
		_ = m.leases.wait(ctx) // who ended in time releases its lease
	}
	stop(ErrNotRunning) // opens under way become intents of unknown outcome
	m.work.Wait()
}

// heartbeatLoop extends the leases.
func (m *Manager) heartbeatLoop(ctx context.Context) {
	tick := time.NewTicker(max(m.opts.Lease/12, time.Millisecond))
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if i%4 != 0 && !m.leases.overdue() {
			continue
		}
		timeout, cancel := context.WithTimeout(sqldb.Urgent(ctx), m.opts.Lease/6)
		if err := m.leases.heartbeat(timeout); err != nil && ctx.Err() == nil {
			m.opts.Logger.Warn("leases not extended, trying again", "error", err)
		}
		cancel()
	}
}

// expiryLoop gives up leases in time, also while a heartbeat hangs.
func (m *Manager) expiryLoop(ctx context.Context) {
	tick := time.NewTicker(max(m.opts.Lease/24, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := m.leases.expireLeases(); n > 0 {
			for range n {
				m.opts.Observe(Event{Kind: LeaseLost})
			}
			m.opts.Logger.Error("leases lost, the work under them was ended", "count", n)
		}
	}
}

// maintenanceLoop does rounds of maintenance until ctx ends. The first one comes
// an interval after the start, or when triggered.
func (m *Manager) maintenanceLoop(ctx context.Context, what string, trigger retry.Trigger, round func(context.Context) error) {
	started := false
	retry.Loop(ctx, trigger, func(ctx context.Context) time.Duration {
		if !started {
			started = true
			return m.opts.Interval
		}
		e := Event{Kind: Maintained, Cause: what, Result: "ok"}
		begun := m.opts.Now()
		if err := round(ctx); err != nil && ctx.Err() == nil {
			e.Result = "failed"
			m.opts.Logger.Warn("session maintenance", "of", what, "error", err)
		}
		e.Took = m.opts.Now().Sub(begun)
		m.opts.Observe(e)
		return m.opts.Interval
	})
}
