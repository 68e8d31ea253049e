package session

import (
	"context"
	"crypto/rand"
	"time"
)

// Why a session is not replaced.
var (
	ErrPaid            = errPaid
	ErrNoOtherProvider = errNoOtherProvider
)

// SetFailpoint has fn called at the named places of the manager's work.
func (o *Options) SetFailpoint(fn func(name string)) { o.failpoint = fn }

// SetSQLTimeout sets how long a transaction may take.
func (o *Options) SetSQLTimeout(d time.Duration) { o.sqlTimeout = d }

// Trigger makes the next round of maintenance come at once.
func (m *Manager) Trigger() { m.trigger() }

// Waiting is how many requests wait in this replica.
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

// IsBusy reports whether all of its connections are in use.
func (m *Manager) IsBusy() bool { return m.store.db.IsBusy() }

// GroupedClaims is how many claims wait for a connection.
func (m *Manager) GroupedClaims() int {
	m.claims.mu.Lock()
	defer m.claims.mu.Unlock()
	return len(m.claims.waiting)
}

// TryClaim claims an idle session for a request that does not wait for one, and returns its row's
// id, or "", and what releases it. Alone, it never goes together with others.
func (m *Manager) TryClaim(ctx context.Context, r Request, alone bool) (id string, release func() error, err error) {
	c := claimRequest{pool: m.poolOf(r.UserID, r.ModelID), token: rand.Text(), margin: m.margin(r.Duration)}
	if r.OmitProvider != "" {
		c.omit = []string{r.OmitProvider}
	}
	claim := m.claims.claim
	if alone {
		claim = m.store.claimAtOnce
	}
	got, err := claim(ctx, c)
	if got == nil {
		return "", nil, err
	}
	return got.ID, func() error { return m.store.release(context.WithoutCancel(ctx), []lease{{got.ID, c.token}}) }, err
}

// Due is how many leases wait to be released.
func (m *Manager) Due() int {
	m.leases.mu.Lock()
	defer m.leases.mu.Unlock()
	return len(m.leases.due)
}

// SetTypical has the manager take requests for as long as hold, and opens for as long as open.
func (m *Manager) SetTypical(hold, open time.Duration) {
	for range 100 {
		m.typical.observe(hold)
		m.opens.observe(open)
	}
}

// Releasing is how many sessions that could serve the request are being released.
func (m *Manager) Releasing(r Request) int { return m.leases.countReleasing(pool{r.UserID, r.ModelID}) }
