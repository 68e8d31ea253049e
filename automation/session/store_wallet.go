package session

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// sendTimeout bounds how long a call keeps others from the wallet. The nonce of
// its transaction is known once that was sent, long before the node answers.
const sendTimeout = 10 * time.Second

// beginCall lets an intent call the node: next to others, or alone where the
// wallet has collided lately or exclusive is set. It returns when the call
// began, or the zero time where it has to wait.
func (s *store) beginCall(ctx context.Context, l lease, exclusive bool, window time.Duration) (time.Time, error) {
	return sqldb.Write(ctx, s.db, "sessions.begin_call", func(tx *sqldb.Tx) (time.Time, error) {
		w, err := readWallet(tx, l.id)
		if err != nil {
			return time.Time{}, err
		}
		mode := walletShared
		if exclusive || w.Exclusive {
			mode = walletExclusive
		}
		if w.InExclusive > 0 || mode == walletExclusive && w.InShared > 0 {
			return time.Time{}, nil
		}
		var called sqldb.Time
		found, err := sqldb.Optional(tx.Get(&called, `UPDATE automation_sessions SET lane = $3, lane_until = {in $4}, called_at = COALESCE(called_at, {now})
			WHERE id = $1 AND lease_token = $2 AND state = '`+stateOpening+`' RETURNING called_at`, l.id, l.token, mode, sendTimeout.Seconds()))
		if err != nil {
			return time.Time{}, err
		}
		if !found {
			return time.Time{}, ErrLeaseLost
		}
		if exclusive { // slides as long as collided calls are repeated
			_, err = tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, window.Seconds())
		}
		return called.Time, err
	})
}

type walletState struct {
	Exclusive   bool `db:"exclusive"`    // within the window after a collision
	InExclusive int  `db:"in_exclusive"` // others in their call, alone
	InShared    int  `db:"in_shared"`    // others in their call, side by side
}

// readWallet reads it under its lock, without the calls of row but. A call that
// has had its time to send keeps nobody waiting, nor does one whose replica died.
func readWallet(tx *sqldb.Tx, but string) (walletState, error) {
	var w walletState
	if err := tx.Lock("wallet"); err != nil {
		return w, err
	}
	err := tx.Get(&w, `SELECT w.alone_until > {now} AS exclusive,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletExclusive+`' AND id <> $1 AND lane_until > {now} AND lease_until > {now}) AS in_exclusive,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletShared+`' AND id <> $1 AND lane_until > {now} AND lease_until > {now}) AS in_shared
		FROM automation_wallet w`, but)
	return w, err
}

// collided ends a call's hold on the wallet and makes the calls go one at a time.
func (s *store) collided(ctx context.Context, l lease, window time.Duration) error {
	_, err := sqldb.Write(ctx, s.db, "sessions.collided", func(tx *sqldb.Tx) (int64, error) {
		if err := tx.Lock("wallet"); err != nil {
			return 0, err
		}
		if _, err := tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, window.Seconds()); err != nil {
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
	return sqldb.Write(ctx, s.db, "sessions.take_due", func(tx *sqldb.Tx) ([]row, error) {
		w, err := readWallet(tx, "")
		if err != nil || w.Exclusive || w.InExclusive > 0 {
			return nil, err
		}
		var rows []row
		err = tx.Select(&rows, `WITH due AS MATERIALIZED (SELECT id FROM automation_sessions
				WHERE state IN ('`+stateOpen+`', '`+stateEnding+`') AND next_at <= {now} AND `+leaseFree+` ORDER BY next_at LIMIT $4 {skip})
			UPDATE automation_sessions SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, lane = '`+walletShared+`', lane_until = {in $5},
				reason = CASE WHEN state = '`+stateOpen+`' THEN '`+reasonEnded+`' ELSE reason END, state = '`+stateEnding+`', attempts = attempts + 1
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
