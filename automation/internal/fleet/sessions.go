package fleet

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Session is a session as operators see it, from the intent to open it until
// after its end.
type Session struct {
	ID        session.ID `json:"id" db:"session_id"` // empty until it is known
	RowID     string     `json:"row_id" db:"id"`     // the id of the row; a cursor
	UserID    string     `json:"user_id" db:"user_id"`
	ModelID   string     `json:"-" db:"model_id"`
	Model     string     `json:"model" db:"-"` // the model's name, which the Store leaves empty
	State     string     `json:"state" db:"state"`
	Reason    string     `json:"reason" db:"reason"` // why it left the state open, or failed
	Provider  string     `json:"provider" db:"provider"`
	LastError string     `json:"last_error" db:"last_error"`
	CreatedAt sqldb.Time `json:"created_at" db:"created_at"` // when the intent was written
	OpenedAt  sqldb.Time `json:"opened_at,omitzero" db:"opened_at"`
	EndsAt    sqldb.Time `json:"ends_at,omitzero" db:"ends_at"`
}

// SessionFilter selects sessions. The zero value selects the newest 100.
type SessionFilter struct {
	UserID string
	State  string
	Before string // the cursor of the page, from Sessions
	Limit  int    // 0 means 100, at most 1000
}

// maxSessions bounds the sessions of one page.
const maxSessions = 1000

// Sessions returns sessions of all users, the newest first, and the cursor of
// the next page, which is empty on the last page. An unknown state or cursor
// selects nothing.
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
	query := `SELECT id, COALESCE(session_id, '') AS session_id, user_id, model_id, state, reason, provider, last_error, created_at, opened_at, ends_at FROM automation_sessions WHERE ` +
		strings.Join(conditions, " AND ") + ` ORDER BY created_at DESC, id DESC LIMIT $1`
	page, err = sqldb.Read(ctx, s.db, "fleet.sessions", func(tx *sqldb.Tx) (page []Session, err error) {
		return page, tx.Select(&page, query, args...)
	})
	if err != nil {
		return nil, "", err
	}
	if len(page) > limit {
		page = page[:limit]
		next = page[limit-1].RowID
	}
	return page, next, nil
}
