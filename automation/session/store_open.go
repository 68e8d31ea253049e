package session

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// complete makes an intent a session. It works with the lease, and without it
// as long as the row has no session: what the node opened must be in a row,
// however late the news. It returns false if the row has a session, or another
// row has this one. A session that is not what was asked for serves nobody.
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
		return false, nil // session_id is unique: another row has it
	}
	return n > 0, err
}

// insertOrphan writes a row for a session whose intent has got another one
// meanwhile. It does nothing where a row has the session.
func (s *store) insertOrphan(ctx context.Context, id string, of lease, c ChainSession, closeAfter time.Duration) error {
	return s.exec(ctx, "sessions.insert_orphan", `INSERT INTO automation_sessions
			(id, session_id, model_id, owner_id, user_id, charged_at, duration, purpose, state, provider, created_at, called_at, opened_at, ends_at, next_at)
		SELECT $1, $2, model_id, owner_id, user_id, charged_at, duration, purpose, '`+stateOpen+`', $3, {now}, called_at, {unix $4}, {unix $5}, {unix $6}
		FROM automation_sessions WHERE id = $7 ON CONFLICT (session_id) DO NOTHING`,
		id, c.ID, c.Provider, c.OpenedAt.Unix(), c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix(), of.id)
}

// fail ends an intent of which it is certain that nothing was opened.
func (s *store) fail(ctx context.Context, l lease, reason, text string) error {
	return s.exec(ctx, "sessions.fail", `UPDATE automation_sessions
		SET state = '`+stateFailed+`', reason = $3, last_error = $4, closed_at = {now}, replaces = NULL, `+clearLease+`
		WHERE id = $1 AND lease_token = $2 AND session_id IS NULL`, l.id, l.token, reason, text)
}

// markUnknown gives an intent to the reconciler, which looks at it at once.
func (s *store) markUnknown(ctx context.Context, l lease, text string) error {
	return s.exec(ctx, "sessions.mark_unknown", `UPDATE automation_sessions
		SET state = '`+stateUnknown+`', reason = '', unknown_at = COALESCE(unknown_at, {now}), next_at = {now}, last_error = $3, `+clearLease+`
		WHERE id = $1 AND lease_token = $2 AND session_id IS NULL`, l.id, l.token, text)
}
