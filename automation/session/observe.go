package session

import (
	"context"
	"errors"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Event is something that has happened, for metrics. It identifies no user, model
// or session.
type Event struct {
	Kind   Kind
	Result string        // how it ended, see Kind
	Cause  string        // why it was done, see Kind
	Took   time.Duration // how long it took; 0 if the kind has no duration
	Asked  time.Duration // of Opened: the duration that was chosen for the session
	Count  int           // of Unexplained: how many sessions
}

// Kind is the kind of an Event.
type Kind int

const (
	// Acquired ends a request's wait for its session. Result is idle if a
	// session was free at once, waited if the request got one later, or the
	// reason why it got none: budget, busy, opening, node, refused, not_yours,
	// ended, unmanaged, canceled, ending (Run is ending) or database.
	Acquired Kind = iota
	// Opened ends an open. Cause is request, renewal, prewarm or replacement.
	// Result is opened, refused, node (the node was not reached), abandoned (the
	// node was not asked), not_needed (nobody waited any more) or unknown.
	Opened
	// Collided: two transactions of the wallet had the same nonce.
	Collided
	// TakenOver: this replica took over an open whose replica has stopped.
	TakenOver
	// Adopted: the session of an open of unknown outcome was found on the chain.
	Adopted
	// GivenUp: the session of an open of unknown outcome was not found. Result is lost,
	// if it is still looked for once a minute, or failed.
	GivenUp
	// LeaseLost: a request has lost its lease, because this replica could not extend it.
	LeaseLost
	// Retired: a session was taken out of service before its end. Result is expired.
	Retired
	// Closed ends an attempt to close a session. Result is closed or failed.
	Closed
	// Maintained ends a round of maintenance. Cause is opens or closes. Result
	// is ok or failed.
	Maintained
	// Replaced ends a search for another session in the place of one that does
	// not work. Result is idle, opened, or the reason why there is none: one of
	// Acquired's, paid (the request has caused an open already), or provider (the
	// node cannot be made to choose another one).
	Replaced
	// Mismatched: an opened session is not what was asked for. Result is what
	// differs: provider, model or length.
	Mismatched
	// CooledDown: a request left its session while the node may still be
	// working for it.
	CooledDown
	// Unexplained ends a comparison of the wallet's sessions with the rows.
	// Count is how many open sessions of the wallet have no row.
	Unexplained
)

// failureResult is the Result of an Acquired or Replaced event without a session.
func failureResult(err error) string {
	if _, ok := errors.AsType[*BudgetError](err); ok {
		return "budget"
	}
	for _, r := range []struct {
		err    error
		result string
	}{
		{ErrBusy, "busy"}, {ErrOpening, "opening"}, {ErrNotOpened, "refused"}, {ErrUnavailable, "node"},
		{errPaid, "paid"}, {errNoOtherProvider, "provider"}, {ErrNotYours, "not_yours"}, {ErrEnded, "ended"}, {ErrUnmanaged, "unmanaged"}, {ErrNotRunning, "ending"},
		{sqldb.ErrUnavailable, "database"}, {sqldb.ErrOutcomeUnknown, "database"},
		{context.Canceled, "canceled"}, {context.DeadlineExceeded, "canceled"},
	} {
		if errors.Is(err, r.err) {
			return r.result
		}
	}
	return "database"
}

// Stats counts the sessions of all replicas.
type Stats struct {
	ByState   map[string]int64 // by opening, unknown, open, ending and lost; not those that have ended
	Held      int64            // sessions under a lease: a request or the maintenance uses them
	Abandoned int64            // sessions whose holder let the lease end, and that nobody has taken over yet
	Due       int64            // sessions that are due for maintenance
	Overdue   time.Duration    // how long the oldest of these has been due

	Unexplained int64 // open sessions of the wallet without a row, at the last comparison
}

// Stats counts the sessions that have not ended.
func (m *Manager) Stats(ctx context.Context) (Stats, error) {
	return m.store.stats(ctx)
}

func (s *store) stats(ctx context.Context) (Stats, error) {
	const due = `next_at <= {now} AND ` + leaseFree
	return sqldb.Read(ctx, s.db, "sessions.stats", func(tx *sqldb.Tx) (Stats, error) {
		var rows []struct {
			State     string  `db:"state"`
			N         int64   `db:"n"`
			Held      int64   `db:"held"`
			Abandoned int64   `db:"abandoned"`
			Due       int64   `db:"due"`
			Overdue   float64 `db:"overdue"`
		}
		err := tx.Select(&rows, `SELECT state, count(*) AS n,
				count(CASE WHEN lease_until >= {now} THEN 1 END) AS held,
				count(CASE WHEN lease_until < {now} AND lease_holder <> '' THEN 1 END) AS abandoned,
				count(CASE WHEN `+due+` THEN 1 END) AS due,
				COALESCE(MAX(CASE WHEN `+due+` THEN -({until next_at}) END), 0) AS overdue
			FROM automation_sessions WHERE `+unfinished+` GROUP BY state`)
		c := Stats{ByState: map[string]int64{stateOpening: 0, stateUnknown: 0, stateOpen: 0, stateEnding: 0, stateLost: 0}}
		for _, r := range rows {
			c.ByState[r.State] = r.N
			c.Held += r.Held
			c.Abandoned += r.Abandoned
			c.Due += r.Due
			c.Overdue = max(c.Overdue, time.Duration(r.Overdue*float64(time.Second)))
		}
		if err != nil {
			return c, err
		}
		return c, tx.Get(&c.Unexplained, `SELECT unexplained FROM automation_wallet`)
	})
}
