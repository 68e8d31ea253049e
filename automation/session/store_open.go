package session

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// complete writes the session that an intent has opened into its row. It does so even if
// the lease was lost, as long as the row has no session, because every session that the
// node has opened must be in a row. It returns false if the row has a session already, or
// another row has this session. If serves is false, the session goes to the state ending.
func (s *store) complete(ctx context.Context, l lease, c ChainSession, serves bool, closeAfter time.Duration) (bool, error) {
	state, reason := stateOpen, ""
	if !serves {
		state, reason = stateEnding, reasonMismatch
	}
	n, err := s.count(ctx, "sessions.complete", `UPDATE automation_sessions
		SET state = $8, session_id = $3, provider = $4, opened_at = {unix $5}, ends_at = {unix $6}, next_at = {unix $7},
			unknown_at = NULL, closed_at = NULL, attempts = 0, reason = $9, last_error = '', `+clearLease+`
		WHERE id = $1 AND session_id IS NULL AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`', '`+stateFailed+`')
			AND (lease_token = $2 OR state <> '`+stateOpening+`')`,
		l.id, l.token, c.ID, c.Provider, c.OpenedAt.Unix(), c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix(), state, reason)
	if sqldb.IsConstraint(err) {
		return false, nil // session_id is unique: another row has the session
	}
	return n > 0, err
}

// insertOrphan writes a row of its own for a session whose intent's row has got another
// session meanwhile. It does nothing if a row has the session already.
func (s *store) insertOrphan(ctx context.Context, id string, of lease, c ChainSession, closeAfter time.Duration) error {
	return s.exec(ctx, "sessions.insert_orphan", `INSERT INTO automation_sessions
			(id, session_id, model_id, owner_id, user_id, charged_at, duration, purpose, state, provider, created_at, called_at, opened_at, ends_at, next_at)
		SELECT $1, $2, model_id, owner_id, user_id, charged_at, duration, purpose, '`+stateOpen+`', $3, {now}, called_at, {unix $4}, {unix $5}, {unix $6}
		FROM automation_sessions WHERE id = $7 ON CONFLICT (session_id) DO NOTHING`,
		id, c.ID, c.Provider, c.OpenedAt.Unix(), c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix(), of.id)
}

// fail ends an intent that has certainly opened nothing.
func (s *store) fail(ctx context.Context, l lease, reason, text string) error {
	return s.exec(ctx, "sessions.fail", `UPDATE automation_sessions
		SET state = '`+stateFailed+`', reason = $3, last_error = $4, closed_at = {now}, replaces = NULL, `+clearLease+`
		WHERE id = $1 AND lease_token = $2 AND session_id IS NULL`, l.id, l.token, reason, text)
}

// markUnknown records that the outcome of an open is unknown. The reconciler then takes
// over.
func (s *store) markUnknown(ctx context.Context, l lease, text string) error {
	return s.exec(ctx, "sessions.mark_unknown", `UPDATE automation_sessions
		SET state = '`+stateUnknown+`', reason = '', unknown_at = COALESCE(unknown_at, {now}), next_at = {now}, last_error = $3, `+clearLease+`
		WHERE id = $1 AND lease_token = $2 AND session_id IS NULL`, l.id, l.token, text)
}
