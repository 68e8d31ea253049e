package session

import (
	"context"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// leaseFree: nobody works on the row.
const leaseFree = `(lease_until IS NULL OR lease_until < {now})`

// clearLease releases a row.
const clearLease = `lane = '', lease_token = NULL, lease_holder = NULL, lease_until = NULL`

// confirmed is what a heartbeat has found of a lease that it has extended.
type confirmed struct {
	ID    string  `db:"id"`
	Token string  `db:"lease_token"`
	State string  `db:"state"`
	Left  float64 `db:"seconds_left"` // to the session's end, if it has one
}

// heartbeat extends this replica's leases. It returns those that it has extended, and
// the tokens of those that it could not extend because another transaction has locked
// the row.
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

const releaseQuery = `UPDATE automation_sessions SET ` + clearLease + `
	WHERE id = (SELECT id FROM automation_sessions WHERE id = $1 AND lease_token = $2 {skip})`

// leased: $1 ids, $2 tokens, $3 holder.
const leased = `id IN {each $1} AND lease_token IN {each $2} AND lease_holder = $3`

// releaseUnlocked ends this replica's leases; late, twice or with a wrong token it does
// nothing. With busy it ends them as if their holder had died: the sessions cool down.
// It returns those that it has left, because another transaction has locked the row.
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
	left, err := sqldb.Read(ctx, s.db, "sessions.locked", func(tx *sqldb.Tx) (left []string, err error) {
		return left, tx.Select(&left, `SELECT lease_token FROM automation_sessions WHERE `+leased, ids, tokens, s.holder)
	})
	return slices.DeleteFunc(slices.Clone(list), func(l lease) bool { return !slices.Contains(left, l.token) }), err
}

// release releases leases that are no requests'.
func (s *store) release(ctx context.Context, list []lease) error {
	ids, tokens := split(list)
	return s.exec(ctx, "sessions.release", `UPDATE automation_sessions SET `+clearLease+`
		WHERE id IN {each $1} AND lease_token IN {each $2}`, ids, tokens)
}

// neededElsewhere returns those of sessions that lease here of which others have need: somebody
// waits for one in another replica, or it serves nobody any more.
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
