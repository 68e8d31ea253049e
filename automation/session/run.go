package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Run extends leases and does the maintenance until ctx ends. Then it gives no
// more claims and waits, for DrainTimeout at most, for the requests that hold
// sessions and the opens under way. It cancels those that remain, writes their
// outcome to the database, and returns when all its goroutines have ended. It can
// be called once; a second call returns an error.
func (m *Manager) Run(ctx context.Context) error {
	live, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	m.mu.Lock()
	if m.phase != notStarted {
		m.mu.Unlock()
		return errors.New("session: Run was called twice")
	}
	m.phase, m.base = running, live
	close(m.started)
	m.mu.Unlock()

	var leaseLoops, maintenance sync.WaitGroup
	leaseLoops.Go(func() { m.heartbeatLoop(live) })
	leaseLoops.Go(func() { m.expiryLoop(live) })
	for range releasers {
		leaseLoops.Go(func() { m.releaseLoop(live) })
	}
	leaseLoops.Go(func() { m.pollLoop(live) })
	maintenance.Go(func() { m.maintenanceLoop(ctx, "opens", m.reconcileNow, m.maintainOpens) })
	maintenance.Go(func() { m.maintenanceLoop(ctx, "closes", m.sweepNow, m.sweep) })

	<-ctx.Done()
	m.mu.Lock()
	m.phase = ending
	close(m.ending)
	m.mu.Unlock()
	m.leases.stopLingering()
	maintenance.Wait()
	m.drain(live, stop)
	leaseLoops.Wait()
	m.leases.noteLoopsEnded()
	m.releaseDue(live) // leases that came after the loops had ended
	return nil
}

// Started returns a channel that is closed when Run has begun to give claims.
func (m *Manager) Started() <-chan struct{} { return m.started }

// drain waits for requests and opens under way, and cancels those that take too long.
func (m *Manager) drain(live context.Context, stop context.CancelCauseFunc) {
	ctx, cancel := context.WithTimeout(live, m.opts.DrainTimeout)
	defer cancel()
	if m.leases.wait(ctx) != nil {
		n := m.leases.cancelAll(ErrNotRunning)
		m.opts.Logger.Warn("canceled requests and opens that did not end within the drain timeout", "count", n, "timeout", m.opts.DrainTimeout)
		ctx, cancel := m.detached(live)
		defer cancel()
		_ = m.leases.wait(ctx) // for requests that release their lease when they are canceled
	}
	stop(ErrNotRunning) // the outcome of opens under way becomes unknown
	m.work.Wait()
}

// heartbeatLoop extends the leases each third of Options.Lease, and tries again each
// twelfth of it after a heartbeat has failed.
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
			m.opts.Logger.Warn("leases not extended, trying again soon", "error", err)
		}
		cancel()
	}
}

// expiryLoop ends the work under leases in time, also while a heartbeat hangs.
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
			m.opts.Logger.Error("leases lost, their requests were canceled", "count", n)
		}
	}
}

// maintenanceLoop does rounds of maintenance until ctx ends. The first one comes
// an interval after the start, or when triggered. The name is "opens" or "closes".
func (m *Manager) maintenanceLoop(ctx context.Context, name string, trigger retry.Trigger, round func(context.Context) error) {
	started := false
	retry.Loop(ctx, trigger, func(ctx context.Context) time.Duration {
		if !started {
			started = true
			return m.opts.Interval
		}
		e := Event{Kind: Maintained, Cause: name, Result: "ok"}
		begun := m.opts.Now()
		if err := round(ctx); err != nil && ctx.Err() == nil {
			e.Result = "failed"
			m.opts.Logger.Warn("round of session maintenance failed", "name", name, "error", err)
		}
		e.Took = m.opts.Now().Sub(begun)
		m.opts.Observe(e)
		return m.opts.Interval
	})
}
