package session

import (
	"context"
	"crypto/rand"
	"time"
)

// The reasons for which Replace returns no session.
var (
	ErrPaid            = errPaid
	ErrNoOtherProvider = errNoOtherProvider
)

// SetFailpoint makes the manager call fn at its named fail points.
func (o *Options) SetFailpoint(fn func(name string)) { o.failpoint = fn }

// SetSQLTimeout sets the time-out of each transaction.
func (o *Options) SetSQLTimeout(d time.Duration) { o.sqlTimeout = d }

// Trigger starts the next round of maintenance at once.
func (m *Manager) Trigger() { m.trigger() }

// Waiting returns how many requests wait for a session in this replica.
func (m *Manager) Waiting() (n int) {
	m.queues.mu.Lock()
	defer m.queues.mu.Unlock()
	for _, list := range m.queues.pools {
		for _, q := range list {
			n += len(q.waiters)
		}
	}
	return n
}

// IsBusy reports whether all database connections of the manager are in use.
func (m *Manager) IsBusy() bool { return m.store.db.IsBusy() }

// GroupedClaims returns how many claims wait for a connection.
func (m *Manager) GroupedClaims() int {
	m.claims.mu.Lock()
	defer m.claims.mu.Unlock()
	return len(m.claims.waiting)
}

// TryClaim claims an idle session without waiting for one to be free. It returns the id of its row,
// or "", and a function that releases it. A single claim never joins a group.
func (m *Manager) TryClaim(ctx context.Context, r Request, single bool) (id string, release func() error, err error) {
	c := claimRequest{pool: m.poolOf(r.UserID, r.ModelID), token: rand.Text(), margin: m.margin(r.Duration)}
	if r.OmitProvider != "" {
		c.omit = []string{r.OmitProvider}
	}
	claim := m.claims.claim
	if single {
		claim = m.store.claimAtOnce
	}
	got, err := claim(ctx, c)
	if got == nil {
		return "", nil, err
	}
	return got.ID, func() error { return m.store.release(context.WithoutCancel(ctx), []lease{{got.ID, c.token}}) }, err
}

// Due returns how many leases wait to be released.
func (m *Manager) Due() int {
	m.leases.mu.Lock()
	defer m.leases.mu.Unlock()
	return len(m.leases.due)
}

// SetTypical makes the manager assume that a request takes hold and that an open takes open.
func (m *Manager) SetTypical(hold, open time.Duration) {
	for range 100 {
		m.typicalHold.observe(hold)
		m.opens.observe(open)
	}
}

// Releasing returns how many sessions that could serve the request are being released.
func (m *Manager) Releasing(r Request) int { return m.leases.countReleasing(pool{r.UserID, r.ModelID}) }
