package automationtest

import (
	"github.com/DATA-DOG/go-sqlmock"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// SessionsCall is a call about sessions.
type SessionsCall struct {
	mock  *Mock
	query *sqlmock.ExpectedQuery
	one   bool // it is about one session, and changes it
}

// SessionsList expects that a user's open sessions are read.
func (m *Mock) SessionsList(user string) SessionsCall {
	m.begin()
	return SessionsCall{m, m.ExpectQuery(`(?s)^SELECT id, session_id, .* FROM automation_sessions\s+WHERE user_id = \$1`).WithArgs(user), false}
}

// SessionEnd expects that a user ends a session.
func (m *Mock) SessionEnd(user, sessionID string) SessionsCall {
	return SessionsCall{m, m.query(`UPDATE automation_sessions SET reason = CASE`, sessionID, user, sqlmock.AnyArg()), true}
}

// UsageCall is a call about what a user has used of their limits.
type UsageCall struct {
	mock  *Mock
	query *sqlmock.ExpectedQuery
}

// SessionsUsage expects that a user's use of their limits is read, as for
// GET /status.
func (m *Mock) SessionsUsage(user string) UsageCall {
	return UsageCall{m, m.query(`WITH held AS (`, user, sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg())}
}

// Returns lets the user hold so many sessions, all of them idle, and have opened
// so many.
func (c UsageCall) Returns(held, opensHour, opensDay int) {
	c.query.WillReturnRows(sqlmock.NewRows([]string{"n", "in_use", "placed", "free", "hour", "hour_free", "day", "day_free"}).
		AddRow(held, 0, held, 1800.0, opensHour, 1800.0, opensDay, 1800.0))
	c.mock.ExpectCommit()
}

// SessionClaim expects that an idle session is claimed.
func (m *Mock) SessionClaim(owner, modelID string) SessionsCall {
	return SessionsCall{m, m.query(`UPDATE automation_sessions SET lease_token = $1`, sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(),
		owner, modelID, sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg()), false}
}

// SessionRelease expects that a claimed session is given back.
func (m *Mock) SessionRelease() WriteCall {
	return m.exec(`UPDATE automation_sessions SET lane = '', lease_token = NULL`)
}

// SessionsErase expects that a user's name is taken off all sessions.
func (m *Mock) SessionsErase(user string) WriteCall {
	m.begin()
	m.ExpectExec(starts(`DELETE FROM automation_provider_failures WHERE user_id = $1`)).WithArgs(user).WillReturnResult(sqlmock.NewResult(0, 0))
	return WriteCall{m, m.ExpectExec(starts(`UPDATE automation_sessions SET`)).WithArgs(user)}
}

// Returns lets the database have these sessions, or the one that was asked for.
func (s SessionsCall) Returns(list ...session.Info) {
	rows := sessionRows()
	for _, x := range list {
		state := "open"
		if x.Ending {
			state = "ending"
		}
		rows.AddRow("row-"+x.SessionID, x.SessionID, x.ModelID, "", "", int64(x.EndsAt.Sub(x.OpenedAt).Seconds()), nil, state, "", "",
			x.OpenedAt, x.OpenedAt, x.EndsAt, x.EndsAt.Sub(x.OpenedAt).Seconds(), x.InUse, 0)
	}
	s.query.WillReturnRows(rows)
	s.mock.ExpectCommit()
}

// Nothing lets the database have no such session.
func (s SessionsCall) Nothing() {
	s.query.WillReturnRows(sessionRows())
	if s.one {
		s.mock.ExpectRollback()
	} else {
		s.mock.ExpectCommit()
	}
}

// Fails lets the database answer with an error.
func (s SessionsCall) Fails(err error) {
	s.query.WillReturnError(err)
	s.mock.ExpectRollback()
}

func sessionRows() *sqlmock.Rows {
	return sqlmock.NewRows([]string{"id", "session_id", "model_id", "owner_id", "user_id", "duration", "fingerprint", "state", "provider", "omit_provider",
		"called_at", "opened_at", "ends_at", "seconds_left", "in_use", "attempts"})
}
