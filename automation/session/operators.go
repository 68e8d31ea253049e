package session

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Record is a session as operators see it, an intent or an ended one included.
type Record struct {
	ID        ID     // empty until it is known
	RowID     string // the row's own, a cursor
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

// Filter selects records. The zero value selects the newest 100.
type Filter struct {
	UserID string
	State  string
	Before string // the RowID of the last record of the page before
	Limit  int    // 0 means 100, at most 1000
}

// maxRecords is the most records of one page.
const maxRecords = 1000

type recordRow struct {
	row

	Reason    string     `db:"reason"`
	LastError string     `db:"last_error"`
	CreatedAt sqldb.Time `db:"created_at"`
}

// ListAll returns sessions of all users, the newest first, and the cursor of
// the next page, which is empty on the last. A state or a cursor that is none
// matches nothing.
func (m *Manager) ListAll(ctx context.Context, f Filter) (page []Record, next string, err error) {
	limit := min(max(cmp.Or(f.Limit, 100), 1), maxRecords)
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
	query := `SELECT ` + columns + `, reason, last_error, created_at FROM automation_sessions WHERE ` +
		strings.Join(conditions, " AND ") + ` ORDER BY created_at DESC, id DESC LIMIT $1`
	rows, err := sqldb.Read(ctx, m.store.db, "sessions.list_all", func(tx *sqldb.Tx) ([]recordRow, error) {
		var rows []recordRow
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
		page = append(page, Record{ID: ID(r.SessionID.String), RowID: r.ID, UserID: r.UserID, ModelID: r.ModelID, State: r.State, Reason: r.Reason,
			Provider: r.Provider, LastError: r.LastError, CreatedAt: r.CreatedAt.Time, OpenedAt: r.OpenedAt.Time, EndsAt: r.EndsAt.Time})
	}
	return page, next, nil
}

// EndAny closes a session on an operator's word, as soon as the request that
// holds it has ended. ErrUnmanaged means that no open session has the id.
func (m *Manager) EndAny(ctx context.Context, id ID) error {
	n, err := m.store.count(ctx, "sessions.end_any", `UPDATE automation_sessions
		SET reason = CASE WHEN state = '`+stateOpen+`' THEN '`+reasonOperator+`' ELSE reason END, next_at = {now}, state = '`+stateEnding+`'
		WHERE session_id = $1 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now}`, string(id))
	if err == nil && n == 0 {
		err = ErrUnmanaged
	}
	if err == nil {
		m.trigger()
	}
	return err
}
