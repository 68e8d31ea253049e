package session

import (
	"context"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// sendTimeout bounds how long a call keeps others from the wallet. The nonce of
// its transaction is known once that was sent, long before the node answers.
const sendTimeout = 10 * time.Second

// collisionWindow is for how long after a collision, sliding, the wallet's calls
// begin one after the other.
const collisionWindow = time.Minute

// holdAfterCollision is for how long a call keeps the wallet that begins within
// the window after a collision, where a call typically takes that long: at first
// half of it, because the other half is the wait for a block, and half of that
// again with every three calls' time that pass without another collision. Whoever
// waits is served sooner than one after the other, and a burst does not follow.
func holdAfterCollision(since, call time.Duration) time.Duration {
	hold := float64(call) / 2 * math.Exp2(-max(since.Seconds(), 0)/(3*call.Seconds()))
	return min(time.Duration(hold), sendTimeout)
}

// beginCall lets an intent call the node: next to others, or after them where the
// wallet has collided lately, or alone if exclusive is set. A call typically takes
// as long as call. It returns when the call began, or the zero time where it has
// to wait. Who is to be alone waits for the calls under way, and meanwhile no other
// begins.
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
		case w.exclusive():
			mode, hold = walletExclusive, holdAfterCollision(collisionWindow-time.Duration(w.Left*float64(time.Second)), call)
		}
		reserves := exclusive && w.UnderWay > 0
		if w.InExclusive > 0 || mode == walletExclusive && w.InShared > 0 && !exclusive {
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
		if exclusive { // slides as long as collided calls are repeated
			_, err = tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, collisionWindow.Seconds())
		}
		if reserves {
			return time.Time{}, err
		}
		return called.Time, err
	})
}

type walletState struct {
	Left        float64 `db:"seconds_left"` // of the window after a collision, or not positive
	InExclusive int     `db:"in_exclusive"` // others in their call, alone
	InShared    int     `db:"in_shared"`    // others in their call, side by side
	UnderWay    int     `db:"under_way"`    // others whose call may not have sent its transaction
}

func (w walletState) exclusive() bool { return w.Left > 0 }

// walletLock is held by whoever changes how the calls share the wallet.
var walletLock = []string{"wallet"}

// readWallet reads it, for a transaction that has its lock, without the calls of row but. A
// call that has had its time to send keeps nobody waiting, nor does one whose replica died.
func readWallet(tx *sqldb.Tx, except string) (w walletState, err error) {
	err = tx.Get(&w, `SELECT {until w.alone_until} AS seconds_left,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletExclusive+`' AND id <> $1 AND lane_until > {now} AND lease_until > {now}) AS in_exclusive,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletShared+`' AND id <> $1 AND lane_until > {now} AND lease_until > {now}) AS in_shared,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND id <> $1 AND (lane_until > {now} OR called_at > {in -$2}) AND lease_until > {now}) AS under_way
		FROM automation_wallet w`, except, sendTimeout.Seconds())
	return w, err
}

// collided ends a call's hold on the wallet and begins the window after a collision.
func (s *store) collided(ctx context.Context, l lease) error {
	_, err := sqldb.WriteLocked(ctx, s.db, "sessions.collided", walletLock, func(tx *sqldb.Tx) (int64, error) {
		if _, err := tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, collisionWindow.Seconds()); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions SET lane = '' WHERE id = $1 AND lease_token = $2`, l.id, l.token)
	})
	return err
}

// takeDue leases sessions that are to be closed: past their end by the margin
// that next_at holds, or asked for, and in nobody's use. While the wallet's
// calls go one at a time, closes wait: the node closes ended sessions itself.
func (s *store) takeDue(ctx context.Context, token string, limit int) ([]row, error) {
	return sqldb.WriteLocked(ctx, s.db, "sessions.take_due", walletLock, func(tx *sqldb.Tx) ([]row, error) {
		w, err := readWallet(tx, "")
		if err != nil || w.exclusive() || w.InExclusive > 0 {
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

// takeAudit reports whether it is time to compare the wallet's sessions with the
// rows, and that nobody else does it.
func (s *store) takeAudit(ctx context.Context, interval time.Duration) (bool, error) {
	n, err := s.count(ctx, "sessions.take_audit", `UPDATE automation_wallet SET audited_at = {now} WHERE audited_at < {in -$1}`, interval.Seconds())
	return n > 0, err
}

// setUnexplained writes down how many of the wallet's sessions no row explains.
func (s *store) setUnexplained(ctx context.Context, n int) error {
	return s.exec(ctx, "sessions.set_unexplained", `UPDATE automation_wallet SET unexplained = $1`, n)
}

// known returns those of the chain's ids that a row has.
func (s *store) known(ctx context.Context, ids []string) (map[string]bool, error) {
	return s.idsIn(ctx, "sessions.known", `SELECT session_id FROM automation_sessions WHERE session_id IN {each $1}`, ids)
}

// foreign returns those of the chain's ids that a client has named.
func (s *store) foreign(ctx context.Context, ids []string) (map[string]bool, error) {
	return s.idsIn(ctx, "sessions.foreign", `SELECT session_id FROM automation_foreign_sessions WHERE session_id IN {each $1}`, ids)
}

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

// unresolved lists the opens that may still turn up on the chain.
func (s *store) unresolved(ctx context.Context) ([]row, error) {
	return sqldb.Read(ctx, s.db, "sessions.unresolved", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `SELECT `+columns+` FROM automation_sessions
			WHERE state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`') AND `+unfinished+` AND called_at IS NOT NULL`)
		return rows, err
	})
}
