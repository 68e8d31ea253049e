package session

import "context"

// EndAny closes a session at an operator's request, as soon as the request that
// holds it has ended. ErrUnmanaged means that no open session has the id.
func (m *Manager) EndAny(ctx context.Context, id ID) error {
	n, err := m.store.count(ctx, "sessions.end_any", `UPDATE automation_sessions
		SET reason = CASE WHEN state = '`+stateOpen+`' THEN '`+reasonOperator+`' ELSE reason END, next_at = {now}, state = '`+stateEnding+`'
		WHERE session_id = $1 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now}`, string(id))
	if err == nil && n == 0 {
		err = ErrUnmanaged
	}
	if err == nil {
		m.leases.forbidHandOver(func(r *row) bool { return r.SessionID.String == id.String() })
		m.trigger()
	}
	return err
}
