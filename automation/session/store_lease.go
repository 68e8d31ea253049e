package session

import (
	"context"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// leaseFree is the condition that nobody holds the row's lease.
const leaseFree = `(lease_until IS NULL OR lease_until < {now})`

// clearLease are the assignments that release a row.
const clearLease = `lane = '', lease_token = NULL, lease_holder = NULL, lease_until = NULL`

// confirmed is a lease that a heartbeat has extended, with the state of its session.
type confirmed struct {
	ID    string  `db:"id"`
	Token string  `db:"lease_token"`
	State string  `db:"state"`
	Left  float64 `db:"seconds_left"` // until the session's end; 0 if it has none yet
}

// heartbeat extends this replica's leases of the rows with these ids. It returns the
// extended leases by id. For rows that another transaction has locked, it returns the
// tokens by id; their leases are not extended.
func (s *store) heartbeat(ctx context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error) {
	type leases struct {
		extended map[string]confirmed
		locked   map[string]string
	}
	res, err := sqldb.Write(ctx, s.db, "sessions.heartbeat", func(tx *sqldb.Tx) (leases, error) {
		l := leases{map[string]confirmed{}, map[string]string{}}
		var rows []confirmed
		err := tx.Select(&rows, `UPDATE automation_sessions SET lease_until = {in $1}
			WHERE id IN (SELECT id FROM automation_sessions WHERE id IN {each $2} AND lease_holder = $3 {skip})
			RETURNING id, lease_token, state, COALESCE({until ends_at}, 0) AS seconds_left`,
			s.lease.Seconds(), jsonList(ids), s.holder)
		for _, r := range rows {
			l.extended[r.ID] = r
		}
		if err != nil || len(rows) == len(ids) {
			return l, err
		}
		err = tx.Select(&rows, `SELECT id, lease_token FROM automation_sessions WHERE id IN {each $1} AND lease_holder = $2`, jsonList(ids), s.holder)
		for _, r := range rows {
			if _, ok := l.extended[r.ID]; !ok {
				l.locked[r.ID] = r.Token
			}
		}
		return l, err
	})
	return res.extended, res.locked, err
}

// releaseQuery releases one lease, unless another transaction has locked its row.
// $1 id, $2 token.
const releaseQuery = `UPDATE automation_sessions SET ` + clearLease + `
	WHERE id = (SELECT id FROM automation_sessions WHERE id = $1 AND lease_token = $2 {skip})`

// leased is the condition that this replica holds one of the leases.
// $1 ids, $2 tokens, $3 holder.
const leased = `id IN {each $1} AND lease_token IN {each $2} AND lease_holder = $3`

// releaseUnlocked releases leases of this replica. A lease that this replica does not
// hold any more is ignored. If busy is set, the leases lapse as if their holder had died,
// so that the sessions cool down. It returns the leases whose rows another transaction
// has locked; they are not released.
func (s *store) releaseUnlocked(ctx context.Context, list []lease, busy bool) (locked []lease, err error) {
	var n int64
	ids, tokens := split(list)
	switch {
	case busy:
		n, err = s.count(ctx, "sessions.lapse", `UPDATE automation_sessions SET lane = '', lease_holder = '', lease_until = {now}
			WHERE id IN (SELECT id FROM automation_sessions WHERE `+leased+` {skip})`, ids, tokens, s.holder)
	case len(list) == 1:
		n, err = s.count(ctx, "sessions.release", releaseQuery, list[0].id, list[0].token)
	default:
		n, err = s.count(ctx, "sessions.release", `UPDATE automation_sessions SET `+clearLease+`
			WHERE id IN (SELECT id FROM automation_sessions WHERE `+leased+` {skip})`, ids, tokens, s.holder)
	}
	if err != nil || n == int64(len(list)) {
		return nil, err
	}
	held, err := sqldb.Read(ctx, s.db, "sessions.locked", func(tx *sqldb.Tx) (held []string, err error) {
		return held, tx.Select(&held, `SELECT lease_token FROM automation_sessions WHERE `+leased, ids, tokens, s.holder)
	})
	return slices.DeleteFunc(slices.Clone(list), func(l lease) bool { return !slices.Contains(held, l.token) }), err
}

// release releases leases that no request holds.
func (s *store) release(ctx context.Context, list []lease) error {
	ids, tokens := split(list)
	return s.exec(ctx, "sessions.release", `UPDATE automation_sessions SET `+clearLease+`
		WHERE id IN {each $1} AND lease_token IN {each $2}`, ids, tokens)
}

// neededElsewhere returns which of the sessions with these ids this replica should
// release: a request in another replica waits for the session, or for a place of the same
// user, or the session serves nobody any more.
func (s *store) neededElsewhere(ctx context.Context, ids []string) ([]string, error) {
	type needed struct {
		ID string `db:"id"`
	}
	list, err := sqldb.Query[needed](ctx, s.db, "sessions.needed", `SELECT id FROM automation_sessions s WHERE id IN {each $1}
		AND (state <> '`+stateOpen+`' OR EXISTS (SELECT 1 FROM automation_waiters w
			WHERE w.owner_id = s.owner_id AND (w.model_id = s.model_id OR s.owner_id <> '') AND w.until > {now} AND w.id NOT LIKE $2))`,
		jsonList(ids), s.holder+"%")
	found := make([]string, len(list))
	for i := range list {
		found[i] = list[i].ID
	}
	return found, err
}
