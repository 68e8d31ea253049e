package session

import (
	"context"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// sendTimeout bounds how long a call keeps others from the wallet. The node takes the
// next nonce as soon as it has sent the call's transaction, long before it answers.
const sendTimeout = 10 * time.Second

// collisionWindow is how long after the last collision the wallet's calls begin one after
// the other.
const collisionWindow = time.Minute

// holdAfterCollision returns how long a call keeps the wallet in the collision window.
// since is the time since the collision, and call the typical duration of a call. At first
// the result is half of call, because the other half is the wait for a block. It halves
// each time 3*call pass without another collision. So a queue is served faster than one
// call after the other, but its calls do not begin all at once either.
func holdAfterCollision(since, call time.Duration) time.Duration {
	hold := float64(call) / 2 * math.Exp2(-max(since.Seconds(), 0)/(3*call.Seconds()))
	return min(time.Duration(hold), sendTimeout)
}

// beginCall lets an intent call the node: next to other calls, one after the other if
// there was a collision lately, or alone if exclusive is set. A call typically takes as
// long as call. It returns when the call began, or the zero time if the intent has to
// wait. An exclusive call waits for the calls under way, and meanwhile no other begins.
func (s *store) beginCall(ctx context.Context, l lease, exclusive bool, call time.Duration) (time.Time, error) {
	return sqldb.WriteLocked(ctx, s.db, "sessions.begin_call", walletLock, func(tx *sqldb.Tx) (time.Time, error) {
		w, err := readWallet(tx, l.id)
		if err != nil {
			return time.Time{}, err
		}
		mode, hold := walletShared, sendTimeout
		switch {
		case exclusive:
			mode = walletExclusive
		case w.inCollisionWindow():
			mode, hold = walletExclusive, holdAfterCollision(collisionWindow-time.Duration(w.Left*float64(time.Second)), call)
		}
		// In the collision window a call also waits for the shared ones. A repeated call
		// only reserves the wallet, so that no other begins, until those under way have ended.
		waitsForShared := !exclusive && mode == walletExclusive && w.InShared > 0
		onlyReserves := exclusive && w.UnderWay > 0
		if w.InExclusive > 0 || waitsForShared {
			return time.Time{}, nil
		}
		var called sqldb.Time
		found, err := sqldb.Optional(tx.Get(&called, `UPDATE automation_sessions SET lane = $3, lane_until = {in $4}, called_at = COALESCE(called_at, {now})
			WHERE id = $1 AND lease_token = $2 AND state = '`+stateOpening+`' RETURNING called_at`, l.id, l.token, mode, hold.Seconds()))
		if err != nil {
			return time.Time{}, err
		}
		if !found {
			return time.Time{}, ErrLeaseLost
		}
		if exclusive { // the window begins again with each repeated call
			_, err = tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, collisionWindow.Seconds())
		}
		if onlyReserves {
			return time.Time{}, err
		}
		return called.Time, err
	})
}

// walletState is how the calls under way share the wallet.
type walletState struct {
	Left        float64 `db:"seconds_left"` // until the collision window ends; not positive if it has ended
	InExclusive int     `db:"in_exclusive"` // other calls that keep the wallet alone
	InShared    int     `db:"in_shared"`    // other calls that share the wallet
	UnderWay    int     `db:"under_way"`    // other calls that may not have sent their transaction yet
}

// inCollisionWindow reports whether there was a collision lately.
func (w walletState) inCollisionWindow() bool { return w.Left > 0 }

// walletLock names the database lock under which the sharing of the wallet changes.
var walletLock = []string{"wallet"}

// readWallet reads how the calls share the wallet, without the calls of row except, for a
// transaction that holds walletLock. A call counts until its time to send is over, or its
// replica has died.
func readWallet(tx *sqldb.Tx, except string) (w walletState, err error) {
	err = tx.Get(&w, `SELECT {until w.alone_until} AS seconds_left,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletExclusive+`' AND id <> $1 AND lane_until > {now} AND lease_until > {now}) AS in_exclusive,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletShared+`' AND id <> $1 AND lane_until > {now} AND lease_until > {now}) AS in_shared,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND id <> $1 AND (lane_until > {now} OR called_at > {in -$2}) AND lease_until > {now}) AS under_way
		FROM automation_wallet w`, except, sendTimeout.Seconds())
	return w, err
}

// collided begins the collision window, and ends the hold of the call on the wallet.
func (s *store) collided(ctx context.Context, l lease) error {
	_, err := sqldb.WriteLocked(ctx, s.db, "sessions.collided", walletLock, func(tx *sqldb.Tx) (int64, error) {
		if _, err := tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, collisionWindow.Seconds()); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions SET lane = '' WHERE id = $1 AND lease_token = $2`, l.id, l.token)
	})
	return err
}

// takeDue leases sessions that are due to be closed and that no request uses. In the
// collision window, or while a call has the wallet alone, it takes none: closes can wait,
// because the node closes ended sessions itself.
func (s *store) takeDue(ctx context.Context, token string, limit int) ([]row, error) {
	return sqldb.WriteLocked(ctx, s.db, "sessions.take_due", walletLock, func(tx *sqldb.Tx) ([]row, error) {
		w, err := readWallet(tx, "")
		if err != nil || w.inCollisionWindow() || w.InExclusive > 0 {
			return nil, err
		}
		var rows []row
		err = tx.Select(&rows, `WITH due AS MATERIALIZED (SELECT id FROM automation_sessions
				WHERE state IN ('`+stateOpen+`', '`+stateEnding+`') AND next_at <= {now} AND `+leaseFree+` ORDER BY next_at LIMIT $4 {skip})
			UPDATE automation_sessions SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, lane = '`+walletShared+`', lane_until = {in $5},
				reason = CASE WHEN state <> '`+stateOpen+`' THEN reason WHEN last_used_at IS NULL THEN '`+reasonUnused+`' ELSE '`+reasonEnded+`' END, state = '`+stateEnding+`', attempts = attempts + 1
			WHERE id IN (SELECT id FROM due) RETURNING `+columns, token, s.holder, s.lease.Seconds(), limit, sendTimeout.Seconds())
		return rows, err
	})
}

// takeAudit reports whether this replica should compare the wallet's sessions with the
// rows now. Each interval it is true for one replica.
func (s *store) takeAudit(ctx context.Context, interval time.Duration) (bool, error) {
	n, err := s.count(ctx, "sessions.take_audit", `UPDATE automation_wallet SET audited_at = {now} WHERE audited_at < {in -$1}`, interval.Seconds())
	return n > 0, err
}

// setUnexplained writes how many open sessions of the wallet have no row.
func (s *store) setUnexplained(ctx context.Context, n int) error {
	return s.exec(ctx, "sessions.set_unexplained", `UPDATE automation_wallet SET unexplained = $1`, n)
}

// known returns which of the session ids a row has.
func (s *store) known(ctx context.Context, ids []string) (map[string]bool, error) {
	return s.idsIn(ctx, "sessions.known", `SELECT session_id FROM automation_sessions WHERE session_id IN {each $1}`, ids)
}

// foreign returns which of the session ids were recorded as foreign, because a client has
// named them.
func (s *store) foreign(ctx context.Context, ids []string) (map[string]bool, error) {
	return s.idsIn(ctx, "sessions.foreign", `SELECT session_id FROM automation_foreign_sessions WHERE session_id IN {each $1}`, ids)
}

// idsIn returns the set of ids that a query selects from ids.
func (s *store) idsIn(ctx context.Context, name, query string, ids []string) (map[string]bool, error) {
	return sqldb.Read(ctx, s.db, name, func(tx *sqldb.Tx) (map[string]bool, error) {
		var list []string
		err := tx.Select(&list, query, jsonList(ids))
		set := make(map[string]bool, len(list))
		for _, id := range list {
			set[id] = true
		}
		return set, err
	})
}

// unresolved lists the opens whose session may still be found on the chain.
func (s *store) unresolved(ctx context.Context) ([]row, error) {
	return sqldb.Read(ctx, s.db, "sessions.unresolved", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `SELECT `+columns+` FROM automation_sessions
			WHERE state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`') AND `+unfinished+` AND called_at IS NOT NULL`)
		return rows, err
	})
}
