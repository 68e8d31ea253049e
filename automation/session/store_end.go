package session

import (
	"context"
	"errors"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// retire takes a claimed session out of service. It is closed only after its end on the
// chain, because an early close locks the unused stake for about a day.
func (s *store) retire(ctx context.Context, l lease, reason string) error {
	return s.exec(ctx, "sessions.retire", `UPDATE automation_sessions SET state = '`+stateEnding+`', reason = $3
		WHERE id = $1 AND lease_token = $2 AND state = '`+stateOpen+`'`, l.id, l.token, reason)
}

// end marks a user's session for closing as soon as nobody uses it.
func (s *store) end(ctx context.Context, userID string, id ID) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.end", func(tx *sqldb.Tx) (*row, error) {
		var r row
		found, err := sqldb.Optional(tx.Get(&r, `UPDATE automation_sessions
			SET reason = CASE WHEN state = '`+stateOpen+`' THEN '`+reasonUser+`' ELSE reason END, next_at = {now}, state = '`+stateEnding+`'
			WHERE session_id = $1 AND user_id = $2 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now} RETURNING `+columns,
			id.String(), userID))
		if !found {
			return nil, errors.Join(err, ErrUnmanaged)
		}
		return &r, err
	})
}

// eraseUser removes the user's name from all rows. Sessions that only this user could
// use serve nobody any more, and are closed after their end.
func (s *store) eraseUser(ctx context.Context, userID string) error {
	_, err := sqldb.Write(ctx, s.db, "sessions.erase_user", func(tx *sqldb.Tx) (int64, error) {
		if _, err := tx.Exec(`DELETE FROM automation_provider_failures WHERE user_id = $1`, userID); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions SET
				reason = CASE WHEN state = '`+stateOpen+`' AND owner_id <> '' THEN '`+reasonErased+`' ELSE reason END,
				state = CASE WHEN state = '`+stateOpen+`' AND owner_id <> '' THEN '`+stateEnding+`' ELSE state END,
				owner_id = '', user_id = '', charged_at = NULL
			WHERE user_id = $1 AND user_id <> ''`, userID)
	})
	return err
}
