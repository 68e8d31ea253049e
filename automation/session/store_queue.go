package session

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// place is the place of a queue's head in the queue of all replicas. The zero place is
// that of a request that does not wait yet.
type place struct {
	id      string        // of its waitQueue; empty if the request does not wait
	waited  time.Duration // how long the head has waited, by this replica's clock
	next    time.Duration // how long the request behind it has waited; negative if there is none
	omit    string        // the provider that the request omits, or empty
	session string        // the id of the only session that the request accepts, or empty
}

// tolerance is how much later than a request of another replica a request may come and
// still be served before it, because a replica sees the others' requests only when it asks.
const tolerance = 500 * time.Millisecond

// placeTimeout is how long a place is kept for a waiter that does not ask again. It is
// longer than any pause between two attempts.
const placeTimeout = 5 * time.Second

// save writes the place of a request, so that later requests of other replicas see it.
// If the request was served, it writes the place of the request behind it, or removes the
// place.
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

// remove removes the place.
func (p place) remove(tx *sqldb.Tx) error {
	if p.id == "" {
		return nil
	}
	_, err := tx.Exec(`DELETE FROM automation_waiters WHERE id = $1`, p.id)
	return err
}

// leaveQueue removes the place of a queue in which no request waits any more.
func (s *store) leaveQueue(ctx context.Context, id string) error {
	return s.exec(ctx, "sessions.leave_queue", `DELETE FROM automation_waiters WHERE id = $1`, id)
}
