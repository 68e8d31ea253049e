package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Session is a session as operators see it, an intent or an ended one included.
type Session struct {
	ID        session.ID // empty until it is known
	RowID     string     // the row's own, a cursor
	UserID    string
	ModelID   string
	State     string // opening, unknown, open, ending, closed, failed, lost
	Reason    string // why it left the state open, or failed
	Provider  string
	LastError string
	CreatedAt time.Time // of the intent
	OpenedAt  time.Time
	EndsAt    time.Time
}

// SessionFilter selects sessions. The zero value selects the newest 100.
type SessionFilter struct {
	UserID string
	State  string
	Before string // the RowID of the last session of the page before
	Limit  int    // 0 means 100, at most 1000
}

// maxSessions is the most sessions of one page.
const maxSessions = 1000

// Sessions returns sessions of all users, the newest first, and the cursor of
// the next page, which is empty on the last. A state or a cursor that is none
// matches nothing.
func (s *Store) Sessions(ctx context.Context, f SessionFilter) (page []Session, next string, err error) {
	limit := min(max(cmp.Or(f.Limit, 100), 1), maxSessions)
	conditions, args := []string{"1 = 1"}, []any{limit + 1}
	where := func(condition string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		conditions = append(conditions, condition)
	}
	if f.State != "" {
		where("state = ?", f.State)
	}
	if f.UserID != "" {
		where("user_id = ? AND user_id <> ''", f.UserID)
	}
	if f.Before != "" {
		const at = `(SELECT created_at FROM automation_sessions WHERE id = ?)`
		where("created_at <= "+at+" AND (created_at < "+at+" OR id < ?)", f.Before, f.Before, f.Before)
	}
	type row struct {
		ID        string         `db:"id"`
		SessionID sql.NullString `db:"session_id"`
		UserID    string         `db:"user_id"`
		ModelID   string         `db:"model_id"`
		State     string         `db:"state"`
		Reason    string         `db:"reason"`
		Provider  string         `db:"provider"`
		LastError string         `db:"last_error"`
		CreatedAt sqldb.Time     `db:"created_at"`
		OpenedAt  sqldb.Time     `db:"opened_at"`
		EndsAt    sqldb.Time     `db:"ends_at"`
	}
	query := `SELECT id, session_id, user_id, model_id, state, reason, provider, last_error, created_at, opened_at, ends_at FROM automation_sessions WHERE ` +
		strings.Join(conditions, " AND ") + ` ORDER BY created_at DESC, id DESC LIMIT $1`
	rows, err := sqldb.Read(ctx, s.db, "fleet.sessions", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		return rows, tx.Select(&rows, query, args...)
	})
	if err != nil {
		return nil, "", err
	}
	if len(rows) > limit {
		next = rows[limit-1].ID
		rows = rows[:limit]
	}
	for _, r := range rows {
		page = append(page, Session{ID: session.ID(r.SessionID.String), RowID: r.ID, UserID: r.UserID, ModelID: r.ModelID, State: r.State, Reason: r.Reason,
			Provider: r.Provider, LastError: r.LastError, CreatedAt: r.CreatedAt.Time, OpenedAt: r.OpenedAt.Time, EndsAt: r.EndsAt.Time})
	}
	return page, next, nil
}
