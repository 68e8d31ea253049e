package automationtest

import (
	"github.com/DATA-DOG/go-sqlmock"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// SessionsCall is a call about sessions.
type SessionsCall struct {
	mock     *Mock
	query    *sqlmock.ExpectedQuery
	rollback bool // without a row the transaction is rolled back
}

// SessionsList expects that a user's open sessions are read.
func (m *Mock) SessionsList(user string) SessionsCall {
	m.begin()
	return SessionsCall{m, m.ExpectQuery(`(?s)^SELECT id, session_id, .* FROM automation_sessions\s+WHERE user_id = \$1`).WithArgs(user), false}
}

// SessionEnd expects that a user ends a session.
func (m *Mock) SessionEnd(user, sessionID string) SessionsCall {
	return SessionsCall{m, m.query(`UPDATE automation_sessions SET reason = CASE`, sessionID, user), true}
}

// UsageCall is a call about a user's use of their limits.
type UsageCall struct {
	mock  *Mock
	query *sqlmock.ExpectedQuery
}

// SessionsUsage expects that a user's use of their limits is read, as for
// GET /status.
func (m *Mock) SessionsUsage(user string) UsageCall {
	return UsageCall{m, m.query(`WITH held AS (`, user, sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg(), sqlmock.AnyArg())}
}

// Returns sets how many sessions the user holds, all of them idle, and how many
// opens were charged to them in the last hour and in the last day.
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

// SessionRelease expects that a claimed session is released.
func (m *Mock) SessionRelease() WriteCall {
	return m.exec(`UPDATE automation_sessions SET lane = '', lease_token = NULL`)
}

// SessionsErase expects that a user's id is removed from all sessions, and their
// records of failed providers deleted.
func (m *Mock) SessionsErase(user string) WriteCall {
	m.begin()
	m.ExpectExec(prefixPattern(`DELETE FROM automation_provider_failures WHERE user_id = $1`)).WithArgs(user).WillReturnResult(sqlmock.NewResult(0, 0))
	return WriteCall{m, m.ExpectExec(prefixPattern(`UPDATE automation_sessions SET`)).WithArgs(user)}
}

// Returns sets the sessions that are listed, or the one that is claimed or ended.
func (s SessionsCall) Returns(sessions ...session.Info) {
	rows := sessionRows()
	for _, info := range sessions {
		state := "open"
		if info.Ending {
			state = "ending"
		}
		lifetime := info.EndsAt.Sub(info.OpenedAt).Seconds()
		rows.AddRow("row-"+info.SessionID, info.SessionID, info.ModelID, "", "", int64(lifetime), nil, state, "", "",
			info.OpenedAt, info.OpenedAt, info.EndsAt, lifetime, info.InUse, 0)
	}
	s.query.WillReturnRows(rows)
	s.mock.ExpectCommit()
}

// Nothing makes the database find no such session.
func (s SessionsCall) Nothing() {
	s.query.WillReturnRows(sessionRows())
	if s.rollback {
		s.mock.ExpectRollback()
	} else {
		s.mock.ExpectCommit()
	}
}

// Fails makes the database return err.
func (s SessionsCall) Fails(err error) {
	s.query.WillReturnError(err)
	s.mock.ExpectRollback()
}

func sessionRows() *sqlmock.Rows {
	return sqlmock.NewRows([]string{"id", "session_id", "model_id", "owner_id", "user_id", "duration", "fingerprint", "state", "provider", "omit_provider",
		"called_at", "opened_at", "ends_at", "seconds_left", "in_use", "attempts"})
}
