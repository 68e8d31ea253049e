package session

import (
	"context"
	"errors"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Event is something that has happened, for metrics. Nothing in it tells
// users, models or sessions apart.
type Event struct {
	Kind   Kind
	Result string        // what came of it, see Kind
	Cause  string        // why it was done, see Kind
	Took   time.Duration // how long it took; 0 where that has no meaning
	Asked  time.Duration // Opened: how long the session was to last
	Count  int           // Unexplained: how many
}

// Kind says what an Event is about.
type Kind int

const (
	// Acquired ends a request's wait for its session. Result is idle, where
	// one was free at once, or waited; or why there is none: budget, busy,
	// opening, node, refused, not_yours, ended, unmanaged, canceled, ending,
	// database.
	Acquired Kind = iota
	// Opened ends an open. Cause is request, renewal, prewarm or replacement;
	// Result is opened, refused, node (it was not reached), abandoned (it was
	// not asked), not_needed (nobody waited any more), or unknown.
	Opened
	// Collided: two of the wallet's transactions met.
	Collided
	// TakenOver: an open of a replica that has stopped was taken over.
	TakenOver
	// Adopted: the session of an open of unknown outcome was found on the chain.
	Adopted
	// GivenUp: an open of unknown outcome came to nothing. Result is lost, where it is
	// still looked for now and then, or failed.
	GivenUp
	// LeaseLost: this replica could not extend a lease in time.
	LeaseLost
	// Retired: a session went out of service before its end. Result is expired.
	Retired
	// Closed ends an attempt to close a session. Result is closed or failed.
	Closed
	// Maintained ends a round of maintenance. Cause is opens or closes, Result
	// is ok or failed.
	Maintained
	// Replaced ends a search for another session in the place of one that does
	// not work. Result is idle or opened, or why there is none: those of
	// Acquired, paid, or provider.
	Replaced
	// Mismatched: an opened session is not what was asked for. Result is
	// provider, model or length.
	Mismatched
	// CooledDown: a request left its session while the node may still be
	// working for it.
	CooledDown
	// Unexplained ends a comparison of the wallet's sessions with the rows.
	// Count is how many open ones no row explains.
	Unexplained
)

// failureResult is the Result of an Acquired that has no session.
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

// Stats is how many sessions there are, of all replicas.
type Stats struct {
	ByState   map[string]int64 // opening, unknown, open, ending, lost; ended ones are not counted
	Held      int64            // those under a lease: in use, or worked on
	Abandoned int64            // those whose holder let its lease end, until somebody takes them over
	Due       int64            // those that maintenance should be looking at
	Overdue   time.Duration    // for how long the first of these has been due

	Unexplained int64 // open sessions of the wallet that no row explains, when it was last compared
}

// Stats counts the sessions that have not ended, by index.
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
