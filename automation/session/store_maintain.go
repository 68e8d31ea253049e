package session

import (
	"context"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// dueWork says what a round of maintenance has to do.
type dueWork struct {
	Unresolved bool `db:"unresolved"` // look for opens of unknown outcome
	Failures   bool `db:"failures"`   // read the failures of providers
	Expiring   bool `db:"expiring"`   // renew sessions that are about to end
	Audit      bool `db:"audit"`      // compare the wallet with the rows
	Ended      bool `db:"ended"`      // close sessions
}

// due reports what a round has to do. It is a single statement, because every replica asks
// in each round and mostly there is nothing to do. Another replica may have done the work
// when due returns.
func (s *store) due(ctx context.Context, ahead, closeAfter time.Duration) (dueWork, error) {
	ahead = ahead.Truncate(time.Minute) + time.Minute // whole minutes, so that there are few different statements
	list, err := sqldb.Look[dueWork](ctx, s.db, "sessions.due", fmt.Sprintf(`SELECT
		EXISTS (SELECT 1 FROM automation_sessions
			WHERE state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`') AND next_at <= {now} AND `+leaseFree+`) AS unresolved,
		EXISTS (SELECT 1 FROM automation_provider_failures WHERE failed_at > {in -%[1]f}) AS failures,
		EXISTS (SELECT 1 FROM automation_sessions
			WHERE state = '`+stateOpen+`' AND `+unfinished+` AND user_id <> '' AND next_at > {in %[2]f} AND next_at <= {in %[3]f}) AS expiring,
		EXISTS (SELECT 1 FROM automation_wallet WHERE audited_at < {in -%[4]f}) AS audit,
		EXISTS (SELECT 1 FROM automation_sessions
			WHERE state IN ('`+stateOpen+`', '`+stateEnding+`') AND next_at <= {now} AND `+leaseFree+`) AS ended`,
		avoidance.Seconds(), closeAfter.Seconds(), (ahead+closeAfter).Seconds(), auditInterval.Seconds()))
	if err != nil || len(list) == 0 {
		return dueWork{}, err
	}
	return list[0], nil
}

// takeUnresolved leases intents that are due to be looked for: those of unknown outcome,
// those that are lost, and those whose opener has let the lease end.
func (s *store) takeUnresolved(ctx context.Context, token string, limit int) ([]row, error) {
	return sqldb.Write(ctx, s.db, "sessions.take_unresolved", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `WITH due AS MATERIALIZED (SELECT id FROM automation_sessions
				WHERE state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`') AND next_at <= {now} AND `+leaseFree+` ORDER BY next_at LIMIT $4 {skip})
			UPDATE automation_sessions SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, lane = '',
				state = CASE WHEN state = '`+stateOpening+`' THEN '`+stateUnknown+`' ELSE state END,
				unknown_at = COALESCE(unknown_at, {now}), attempts = attempts + 1
			WHERE id IN (SELECT id FROM due) RETURNING `+columns+`, (unknown_at = {now}) AS taken_over`, token, s.holder, s.lease.Seconds(), limit)
		return rows, err
	})
}

// requeue releases an intent that was not found, to be looked for again after pause. After
// timeout it becomes lost, and failed when its session would have ended. It returns the
// new state, or "" if the lease was lost.
func (s *store) requeue(ctx context.Context, l lease, timeout, pause time.Duration) (state string, err error) {
	return sqldb.Write(ctx, s.db, "sessions.requeue", func(tx *sqldb.Tx) (string, error) {
		var state string
		err := tx.Get(&state, `UPDATE automation_sessions SET `+clearLease+`, reason = '',
				state = CASE WHEN unknown_at > {in -$3} THEN state WHEN unknown_at > {in -$3 - duration} THEN '`+stateLost+`' ELSE '`+stateFailed+`' END,
				replaces = CASE WHEN unknown_at > {in -$3} THEN replaces END,
				closed_at = CASE WHEN unknown_at > {in -$3 - duration} THEN NULL ELSE {now} END,
				next_at = CASE WHEN unknown_at > {in -$3} THEN {in $4} ELSE {in 60} END
			WHERE id = $1 AND lease_token = $2 RETURNING state`, l.id, l.token, timeout.Seconds(), pause.Seconds())
		_, err = sqldb.Optional(err)
		return state, err
	})
}

// unreachable releases intents because the node could not be asked about them. It leaves
// their state as it is.
func (s *store) unreachable(ctx context.Context, list []lease, pause time.Duration, text string) error {
	ids, tokens := split(list)
	return s.exec(ctx, "sessions.unreachable", `UPDATE automation_sessions
		SET reason = '`+reasonUnreachable+`', last_error = $3, next_at = {in $4}, `+clearLease+`
		WHERE id IN {each $1} AND lease_token IN {each $2}`, ids, tokens, text, pause.Seconds())
}

// closed records that a session is closed on the chain.
func (s *store) closed(ctx context.Context, l lease) error {
	return s.exec(ctx, "sessions.closed", `UPDATE automation_sessions
		SET state = '`+stateClosed+`', closed_at = {now}, last_error = '', `+clearLease+` WHERE id = $1 AND lease_token = $2`, l.id, l.token)
}

// notClosed releases a session that was not closed, to be closed after pause.
func (s *store) notClosed(ctx context.Context, l lease, pause time.Duration, text string) error {
	return s.exec(ctx, "sessions.not_closed", `UPDATE automation_sessions
		SET next_at = {in $3}, last_error = $4, `+clearLease+` WHERE id = $1 AND lease_token = $2`, l.id, l.token, pause.Seconds(), text)
}

// updateExpiry replaces an estimated end by the chain's end, and releases the session.
func (s *store) updateExpiry(ctx context.Context, l lease, c ChainSession, closeAfter time.Duration) error {
	return s.exec(ctx, "sessions.update_expiry", `UPDATE automation_sessions
		SET provider = $3, ends_at = {unix $4}, next_at = {unix $5}, `+clearLease+` WHERE id = $1 AND lease_token = $2`,
		l.id, l.token, c.Provider, c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix())
}

// expiring lists sessions in use that end within ahead and have no successor.
func (s *store) expiring(ctx context.Context, ahead, closeAfter time.Duration, limit int) ([]row, error) {
	return sqldb.Read(ctx, s.db, "sessions.expiring", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `SELECT `+columns+` FROM automation_sessions s
			WHERE state = '`+stateOpen+`' AND `+unfinished+` AND user_id <> ''
				AND next_at > {in $2} AND next_at <= {in $1 + $2} AND ends_at > {now}
				AND (last_used_at > {in -$1} OR lease_until > {now})
				AND NOT EXISTS (SELECT 1 FROM automation_sessions n WHERE n.replaces = s.id)
			ORDER BY next_at LIMIT $3`, ahead.Seconds(), closeAfter.Seconds(), limit)
		return rows, err
	})
}

// idle counts the sessions of a model that no user owns, idle or being opened, which end
// later than ahead.
func (s *store) idle(ctx context.Context, model string, ahead time.Duration) (int, error) {
	return sqldb.Read(ctx, s.db, "sessions.idle", func(tx *sqldb.Tx) (int, error) { return s.idleIn(tx, model, ahead) })
}

// idleIn is idle within a transaction.
func (s *store) idleIn(tx *sqldb.Tx, model string, ahead time.Duration) (n int, err error) {
	err = tx.Get(&n, `SELECT count(*) FROM automation_sessions
		WHERE owner_id = '' AND model_id = $1 AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateOpen+`')
			AND (ends_at IS NULL OR ends_at > {in $2}) AND (state <> '`+stateOpen+`' OR `+leaseFree+`)`, model, ahead.Seconds())
	if err != nil || n > 0 {
		return n, err
	}
	// An open that failed within the last minute counts as well. Otherwise every replica
	// would ask the node again in each round.
	err = tx.Get(&n, `SELECT count(*) FROM automation_sessions
		WHERE state = '`+stateFailed+`' AND `+finished+` AND closed_at > {in -60} AND owner_id = '' AND user_id = '' AND model_id = $1`, model)
	return n, err
}

// forget deletes rows that nobody needs any more: foreign sessions that have ended,
// providers' failures that do not count any more, and places of requests that have gone.
func (s *store) forget(ctx context.Context) error {
	_, err := sqldb.Write(ctx, s.db, "sessions.forget", func(tx *sqldb.Tx) (int64, error) {
		if _, err := tx.Exec(`DELETE FROM automation_foreign_sessions WHERE seen_at < {in -$1}`, foreignKept.Seconds()); err != nil {
			return 0, err
		}
		if _, err := tx.Exec(`DELETE FROM automation_provider_failures WHERE failed_at < {in -$1}`, avoidance.Seconds()); err != nil {
			return 0, err
		}
		return tx.Exec(`DELETE FROM automation_waiters WHERE until < {in -60}`)
	})
	return err
}
