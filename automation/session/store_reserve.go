package session

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// reserveRequest describes a reservation, for a request that has found no idle session or
// for the maintenance. A reservation claims an idle session, or writes intents to open
// sessions.
type reserveRequest struct {
	claimRequest                 // without a token, no idle session is claimed
	named          ID            // for undo: the session that the client has named, or empty
	user           string        // to whom the open is charged, or empty
	omitProvider   string        // the provider that the node must not choose, or empty
	duration       time.Duration // that the user chose
	ceiling        time.Duration // to which the chain shortens sessions; zero if none is known
	purpose        string
	replaces       string  // the row whose successor is opened, or empty
	demand         *demand // of a queue; nil for a request that must open none, and for a single open of the maintenance
	inUseMayLinger bool    // sessions in use count as idle, see headView
	ids            []lease // of the intents that may be written
}

// newIntents returns ids and tokens for as many intents as a reservation may write.
func newIntents(d *demand, purpose string) []lease {
	n := 1
	switch {
	case d != nil:
		n = min(d.unpaid, 64)
	case purpose == purposeRequest:
		n = 0
	}
	list := make([]lease, n)
	for i := range list {
		list[i] = lease{rand.Text(), rand.Text()}
	}
	return list
}

// intent is an intended open, written as a row before the node is called.
type intent struct {
	lease
	length time.Duration // to ask the node for
}

// reserveResult is the result of a reservation.
type reserveResult struct {
	claimed *row     // nil if no idle session was claimed
	opens   []intent // the intents that were written
	// The pool's counts, without the new intents.
	Live    int          `db:"live"`    // open sessions
	Idle    int          `db:"idle"`    // of these, sessions that no request uses
	Ready   int          `db:"ready"`   // idle sessions of the model that belong to no user yet
	Opening int          `db:"opening"` // opens under way
	Unknown int          `db:"unknown"` // opens of unknown outcome
	Stuck   int          `db:"stuck"`   // of these, opens that the node cannot be asked about
	capped  bool         // a limit allowed fewer opens than the demand
	refused *BudgetError // the limit that allows no open at all, or nil
}

// claimReadyQuery is claimQuery for a session that belongs to no user yet, such as a
// prewarmed one. It becomes the user's and is charged to them.
const claimReadyQuery = `UPDATE automation_sessions
	SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now},
		owner_id = $4, user_id = $4, charged_at = {now}
	WHERE id = (SELECT id FROM automation_sessions
		WHERE owner_id = '' AND user_id = '' AND model_id = $5 AND state = '` + stateOpen + `' AND ends_at > {in $6}
			AND (lease_until IS NULL OR lease_until < {in -$8}) AND provider NOT IN {each $7}
		ORDER BY ends_at LIMIT 1 {skip})
	RETURNING ` + claimColumns

// reserve claims a session that has become idle meanwhile, or writes intents to open
// sessions, as many as the limits allow. It holds the user's lock, so the limits are exact
// across replicas.
func (s *store) reserve(ctx context.Context, r reserveRequest, l limits) (reserveResult, error) {
	locks := []string{"user:" + r.user}
	if l.total > 0 || r.purpose == purposeReplacement {
		locks = append(locks, "sessions")
	}
	return sqldb.WriteLocked(ctx, s.db, "sessions.reserve", locks, func(tx *sqldb.Tx) (reserveResult, error) {
		res, err := s.reserveIn(tx, r, l)
		if err != nil {
			return reserveResult{}, err
		}
		return res, r.place.save(tx, r.pool, res.claimed != nil)
	})
}

// reserveIn is reserve within its transaction.
func (s *store) reserveIn(tx *sqldb.Tx, r reserveRequest, l limits) (res reserveResult, err error) {
	if r.token != "" {
		if res.claimed, err = s.claimIn(tx, r.claimRequest); res.claimed != nil || err != nil {
			return res, err
		}
	}
	if err := s.countPool(tx, r, &res); err != nil {
		return res, err
	}
	if r.inUseMayLinger {
		res.Idle = res.Live
	}
	n := len(r.ids)
	if r.demand != nil {
		d := *r.demand
		d.live, d.idle, d.opening = res.Live, res.Idle, res.Opening
		if r.inUseMayLinger {
			d.ending = 0 // these count as idle already
		}
		n = min(n, d.opens())
	}
	if res.Unknown > 0 || n == 0 {
		return res, nil // no further open while the outcome of another is unknown
	}
	if r.purpose == purposeReplacement && res.Idle > 0 {
		return res, nil // the idle session is locked by another transaction, mostly for a moment
	}
	if r.purpose == purposePrewarm {
		if ready, err := s.idleIn(tx, r.model, r.margin); ready > 0 || err != nil {
			return res, err
		}
	}
	allowed, refused, err := s.quota(tx, r, l, res.Live+res.Opening)
	if err != nil {
		return res, err
	}
	if allowed > 0 && r.owner != "" && r.token != "" && res.Ready > 0 {
		if res.claimed, err = s.claimWith(tx, claimReadyQuery, r.claimRequest, s.coolDown.Seconds()); res.claimed != nil || err != nil {
			return res, err
		}
		if r.demand.stalled < r.demand.open {
			return res, nil // the ready session is locked, mostly for a moment: no reason to pay yet
		}
	}
	res.capped, res.refused = allowed < n, refused
	res.opens, err = s.insertIntents(tx, r, min(n, allowed))
	return res, err
}

// countPool counts the pool's open sessions and its opens.
func (s *store) countPool(tx *sqldb.Tx, r reserveRequest, res *reserveResult) error {
	return tx.Get(res, `SELECT count(CASE WHEN state = '`+stateOpen+`' THEN 1 END) AS live,
			count(CASE WHEN state = '`+stateOpen+`' AND (lease_until IS NULL OR lease_until < {in -$5}) THEN 1 END) AS idle,
			count(CASE WHEN state = '`+stateOpening+`' THEN 1 END) AS opening, count(CASE WHEN state = '`+stateUnknown+`' THEN 1 END) AS unknown,
			count(CASE WHEN state = '`+stateUnknown+`' AND reason = '`+reasonUnreachable+`' THEN 1 END) AS stuck,
			(SELECT count(*) FROM automation_sessions WHERE owner_id = '' AND user_id = '' AND model_id = $2 AND state = '`+stateOpen+`' AND ends_at > {in $3}
				AND (lease_until IS NULL OR lease_until < {in -$5}) AND provider NOT IN {each $4}) AS ready
		FROM automation_sessions
		WHERE owner_id = $1 AND model_id = $2 AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateOpen+`') AND (ends_at IS NULL OR ends_at > {in $3})
			AND provider NOT IN {each $4} AND id <> $6`, r.owner, r.model, r.margin.Seconds(), jsonList(r.omit), s.coolDown.Seconds(), r.replaces)
}

// insertIntents writes up to n intents, each with another length.
func (s *store) insertIntents(tx *sqldb.Tx, r reserveRequest, n int) (list []intent, err error) {
	if n <= 0 {
		return nil, nil
	}
	free, err := freeFingerprints(tx, r.duration, r.ceiling, n)
	if err != nil {
		return nil, err
	}
	charged := r.user != "" && r.purpose != purposeReplacement
	for _, f := range free {
		if len(list) == n {
			break
		}
		in := r.ids[len(list)]
		written, err := tx.Exec(`INSERT INTO automation_sessions (id, model_id, owner_id, user_id, charged_at, duration, fingerprint, purpose, state, omit_provider,
				replaces, lease_token, lease_holder, lease_until, created_at, next_at)
			VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN {now} END, $6, $7, $8, '`+stateOpening+`', $9, NULLIF($10, ''), $11, $12, {in $13}, {now}, {now})
			ON CONFLICT DO NOTHING`,
			in.id, r.model, r.owner, r.user, charged, int64(r.duration.Seconds()), f, r.purpose, r.omitProvider, r.replaces, in.token, s.holder, s.lease.Seconds())
		if err != nil {
			return nil, err
		}
		if written > 0 {
			list = append(list, intent{in, time.Duration(f) * time.Second})
			continue
		}
		if r.replaces != "" { // the row has a successor already, or another open has taken the length
			var successors int
			if err := tx.Get(&successors, `SELECT count(*) FROM automation_sessions WHERE replaces = $1`, r.replaces); err != nil || successors > 0 {
				return list, err
			}
		}
	}
	return list, nil
}

// undo reverts a reservation of unknown outcome, or one that nobody can use. It releases
// what was claimed under the token, and fails the intents that have not called the node.
func (s *store) undo(ctx context.Context, r reserveRequest) error {
	ids, tokens := split(r.ids)
	_, err := sqldb.Write(ctx, s.db, "sessions.undo", func(tx *sqldb.Tx) (int64, error) {
		if r.named != "" {
			return tx.Exec(`UPDATE automation_sessions SET `+clearLease+` WHERE session_id = $1 AND lease_token = $2`, r.named.String(), r.token)
		}
		if _, err := tx.Exec(`UPDATE automation_sessions SET `+clearLease+`
			WHERE owner_id = $1 AND model_id = $2 AND state = '`+stateOpen+`' AND lease_token = $3`, r.owner, r.model, r.token); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions
			SET state = '`+stateFailed+`', reason = '`+reasonNotAsked+`', closed_at = {now}, replaces = NULL, `+clearLease+`
			WHERE id IN {each $1} AND lease_token IN {each $2} AND state = '`+stateOpening+`' AND called_at IS NULL`, ids, tokens)
	})
	return err
}
