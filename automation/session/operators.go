package session

import "context"

// EndAny marks any user's session for closing at an operator's request. It is closed
// as soon as the request that uses it has ended. ErrUnmanaged means that no session with
// that id is open or ending.
func (m *Manager) EndAny(ctx context.Context, id ID) error {
	n, err := m.store.count(ctx, "sessions.end_any", `UPDATE automation_sessions
		SET reason = CASE WHEN state = '`+stateOpen+`' THEN '`+reasonOperator+`' ELSE reason END, next_at = {now}, state = '`+stateEnding+`'
		WHERE session_id = $1 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now}`, string(id))
	switch {
	case err != nil:
		return err
	case n == 0:
		return ErrUnmanaged
	}
	m.leases.forbidHandOver(func(r *row) bool { return r.SessionID.String == id.String() })
	m.trigger()
	return nil
}
