package session

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// place is the place of a replica's first waiting request in the queue of all
// replicas. The zero place is that of a request that does not wait yet.
type place struct {
	id      string        // of its waitQueue, empty while it does not wait
	waited  time.Duration // for how long, by this replica's clock
	next    time.Duration // for how long the request behind it has waited, negative: there is none
	omit    string
	session string // the only session that will do, or empty
}

// tolerance is how much later than another a request may have come and still be
// served before it: whoever waits in another replica is only found by looking.
const tolerance = 500 * time.Millisecond

// placeTimeout is how long a place is kept for a waiter that does not look
// again. It is longer than any pause between two looks.
const placeTimeout = 5 * time.Second

// save writes the place down for those who come later, or, once the request is
// served, hands it to the one behind it.
func (p place) save(tx *sqldb.Tx, of pool, served bool) error {
	waited := p.waited
	if served {
		waited = p.next
	}
	if p.id == "" || waited < 0 {
		return p.remove(tx)
	}
	_, err := tx.Exec(`INSERT INTO automation_waiters (id, owner_id, model_id, session_id, omit_provider, since, until)
		VALUES ($1, $2, $3, $4, $5, {in -$6}, {in $7})
		ON CONFLICT (id) DO UPDATE SET since = excluded.since, until = excluded.until`,
		p.id, of.owner, of.model, p.session, p.omit, waited.Seconds(), placeTimeout.Seconds())
	return err
}

func (p place) remove(tx *sqldb.Tx) error {
	if p.id == "" {
		return nil
	}
	_, err := tx.Exec(`DELETE FROM automation_waiters WHERE id = $1`, p.id)
	return err
}

// leaveQueue gives up the place of a queue in which nobody waits any more.
func (s *store) leaveQueue(ctx context.Context, id string) error {
	return s.exec(ctx, "sessions.leave_queue", `DELETE FROM automation_waiters WHERE id = $1`, id)
}
