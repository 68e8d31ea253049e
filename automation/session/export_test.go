package session

import "time"

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
