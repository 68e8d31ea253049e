package session

import (
	"context"
	"errors"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// claimColumns are the columns that a request's claim needs. On PostgreSQL used_before is
// the value before the statement. On SQLite it is not, but no lease lingers there.
const claimColumns = `id, session_id, model_id, owner_id, user_id, duration, provider, ends_at, {until ends_at} AS seconds_left, last_used_at,
	(SELECT last_used_at FROM automation_sessions b WHERE b.id = automation_sessions.id) AS used_before`

// claimRequest describes the claim of a session.
type claimRequest struct {
	pool
	token  string
	omit   []string      // providers whose sessions are not wanted
	margin time.Duration // the session must last longer than that
	place  place         // in the queue of all replicas
}

// claimQuery claims the usable session that ends first, so that the others can end
// unused. It leaves out a session for which an earlier request waits in another
// replica, and one whose lease has lapsed until it has cooled down, because the node
// may still be working. Durations are in seconds.
// $1 token, $2 holder, $3 lease, $4 owner, $5 model, $6 margin, $7 omitted
// providers, $8 cool-down, $9 the id of the waiter's queue, $10 how long it has waited.
var claimQuery = `UPDATE automation_sessions
	SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now}
	WHERE id = (` + idleSession("$4", "$5", "$6", "$7", "$8", "$9", "$10") + `)
	RETURNING ` + claimColumns

// idleSession returns the subquery that selects the session to claim. Its arguments are
// parameters or columns.
func idleSession(owner, model, margin, omit, coolDown, waiter, waited string) string {
	return `SELECT id FROM automation_sessions s
	WHERE owner_id = ` + owner + ` AND model_id = ` + model + ` AND state = '` + stateOpen + `' AND ends_at > {in ` + margin + `}
		AND (lease_until IS NULL OR lease_until < {in -` + coolDown + `}) AND provider NOT IN {each ` + omit + `} AND NOT ` + earlierWaiter(owner, model, waiter, waited) + `
	ORDER BY ends_at LIMIT 1 {skip}`
}

// earlierWaiter returns the condition that an earlier request waits for session s in
// another queue. Its arguments are parameters or columns.
func earlierWaiter(owner, model, waiter, waited string) string {
	return `EXISTS (SELECT 1 FROM automation_waiters w
	WHERE w.owner_id = ` + owner + ` AND w.model_id = ` + model + ` AND w.id <> ` + waiter + ` AND w.until > {now} AND w.since < {in -` + waited + `}
		AND (w.omit_provider = '' OR w.omit_provider <> s.provider) AND (w.session_id = '' OR w.session_id = s.session_id))`
}

// claimAtOnce is claim as a single statement, for a request that does not wait in a queue.
func (s *store) claimAtOnce(ctx context.Context, c claimRequest) (*row, error) {
	list, err := sqldb.Query[row](ctx, s.db, "sessions.claim", claimQuery, s.claimArgs(c, s.coolDown.Seconds(), "", tolerance.Seconds())...)
	if len(list) == 0 {
		return nil, err
	}
	return &list[0], err
}

// claim claims an idle session, or returns nil if there is none. In the same
// transaction it saves the place of a waiting request, or passes it on.
func (s *store) claim(ctx context.Context, c claimRequest) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.claim", func(tx *sqldb.Tx) (*row, error) {
		r, err := s.claimIn(tx, c)
		if err != nil {
			return nil, err
		}
		return r, c.place.save(tx, c.pool, r != nil)
	})
}

// claimIn runs claimQuery in a transaction.
func (s *store) claimIn(tx *sqldb.Tx, c claimRequest) (*row, error) {
	return s.claimWith(tx, claimQuery, c, s.coolDown.Seconds(), c.place.id, (c.place.waited + tolerance).Seconds())
}

// claimWith runs a claim's query with claimArgs, and returns nil if it finds no session.
func (s *store) claimWith(tx *sqldb.Tx, query string, c claimRequest, more ...any) (*row, error) {
	var r row
	found, err := sqldb.Optional(tx.Get(&r, query, s.claimArgs(c, more...)...))
	if !found {
		return nil, err
	}
	return &r, nil
}

// claimArgs returns the parameters $1 to $7 that claims share, and more after them.
func (s *store) claimArgs(c claimRequest, more ...any) []any {
	return append([]any{c.token, s.holder, s.lease.Seconds(), c.owner, c.model, c.margin.Seconds(), jsonList(c.omit)}, more...)
}

// claimNamed claims the session with that id on the chain for its own user. It returns
// nil if the session is in use or an earlier request waits for it, and ErrUnmanaged,
// ErrNotYours or ErrEnded if the user cannot have it. An id that no row has is recorded
// as foreign, so that it is never adopted.
func (s *store) claimNamed(ctx context.Context, userID string, id ID, shared bool, c claimRequest) (*row, error) {
	type result struct {
		row *row
		err error // why the user cannot have it
	}
	res, err := sqldb.Write(ctx, s.db, "sessions.claim_named", func(tx *sqldb.Tx) (result, error) {
		var r row
		found, err := sqldb.Optional(tx.Get(&r, `SELECT `+columns+` FROM automation_sessions WHERE session_id = $1`, id.String()))
		switch {
		case err != nil:
			return result{}, err
		case !found:
			_, err := tx.Exec(`INSERT INTO automation_foreign_sessions (session_id, seen_at) VALUES ($1, {now}) ON CONFLICT DO NOTHING`, id.String())
			return result{err: ErrUnmanaged}, err
		case r.OwnerID != userID && (r.OwnerID != "" || !shared && r.UserID != userID):
			return result{err: ErrNotYours}, nil
		case r.State != stateOpen || r.Left <= c.margin.Seconds():
			return result{err: ErrEnded}, nil
		}
		place, p := c.place, pool{r.OwnerID, r.ModelID}
		place.session = id.String()
		found, err = sqldb.Optional(tx.Get(&r, `UPDATE automation_sessions
			SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now}
			WHERE id = (SELECT id FROM automation_sessions s WHERE session_id = $7 AND owner_id = $4 AND model_id = $5 AND state = '`+stateOpen+`'
				AND ends_at > {in $6} AND (lease_until IS NULL OR lease_until < {in -$8}) AND NOT `+earlierWaiter("$4", "$5", "$9", "$10")+` {skip})
			RETURNING `+columns,
			c.token, s.holder, s.lease.Seconds(), p.owner, p.model, c.margin.Seconds(), id.String(), s.coolDown.Seconds(), place.id, (place.waited + tolerance).Seconds()))
		if err != nil {
			return result{}, err
		}
		if err := place.save(tx, p, found); err != nil || !found {
			return result{}, err
		}
		return result{row: &r}, nil
	})
	return res.row, errors.Join(err, res.err)
}
