package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// store reads and writes the table automation_sessions and those next to it. Whoever
// works on a row holds its lease, and every change of a leased row names the lease's
// token.
type store struct {
	db       *sqldb.DB
	holder   string // identifies this replica as long as it runs
	lease    time.Duration
	coolDown time.Duration
}

// lease identifies a lease: the id of its row, and the token under which it is held.
type lease struct{ id, token string }

// row is what the manager reads of a session's row.
type row struct {
	ID           string         `db:"id"`
	SessionID    sql.NullString `db:"session_id"`
	ModelID      string         `db:"model_id"`
	OwnerID      string         `db:"owner_id"`
	UserID       string         `db:"user_id"`
	Duration     int64          `db:"duration"`    // seconds that the user chose
	Fingerprint  sql.NullInt64  `db:"fingerprint"` // seconds asked of the chain
	State        string         `db:"state"`
	Provider     string         `db:"provider"`
	OmitProvider string         `db:"omit_provider"`
	CalledAt     sqldb.Time     `db:"called_at"`
	OpenedAt     sqldb.Time     `db:"opened_at"`
	EndsAt       sqldb.Time     `db:"ends_at"`
	Left         float64        `db:"seconds_left"` // until its end, on the database's clock
	InUse        bool           `db:"in_use"`
	Attempts     int            `db:"attempts"`
	TakenOver    bool           `db:"taken_over"` // its opener let the lease end; only takeUnresolved reads it

	// Only claimColumns have these.
	LastUsedAt sqldb.Time `db:"last_used_at"` // when this claim was made
	UsedBefore sqldb.Time `db:"used_before"`  // when the claim before it was made
}

func (r *row) pool() pool { return pool{r.OwnerID, r.ModelID} }

// chosen returns how long the user wanted the session to last.
func (r *row) chosen() time.Duration { return time.Duration(r.Duration) * time.Second }

const columns = `id, session_id, model_id, owner_id, user_id, duration, fingerprint, state, provider, omit_provider,
	called_at, opened_at, ends_at, COALESCE({until ends_at}, 0) AS seconds_left,
	(lease_until IS NOT NULL AND lease_until > {now}) AS in_use, attempts`

// pool identifies the sessions that can serve a request. The owner is "" for sessions
// that serve any user.
type pool struct{ owner, model string }

// list returns a user's open and ending sessions, ordered by their end.
func (s *store) list(ctx context.Context, userID string) ([]row, error) {
	return sqldb.Read(ctx, s.db, "sessions.list", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `SELECT `+columns+` FROM automation_sessions
			WHERE user_id = $1 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now} ORDER BY ends_at, id`, userID)
		return rows, err
	})
}

// exec is count without the number of rows.
func (s *store) exec(ctx context.Context, name, query string, args ...any) error {
	_, err := s.count(ctx, name, query, args...)
	return err
}

// count runs a statement and returns the number of rows that it has changed. The
// statement may run twice, so a repetition must do no harm: it names a lease's token or
// a state, or sets the same values again.
func (s *store) count(ctx context.Context, name, query string, args ...any) (int64, error) {
	return sqldb.Exec(ctx, s.db, name, query, args...)
}

// split returns the ids and the tokens of leases as two parameters, see jsonList.
func split(list []lease) (ids, tokens string) {
	idList, tokenList := make([]string, len(list)), make([]string, len(list))
	for i, l := range list {
		idList[i], tokenList[i] = l.id, l.token
	}
	return jsonList(idList), jsonList(tokenList)
}

// jsonList returns texts as one parameter, a JSON array for the macro {each}.
func jsonList(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // texts always marshal
	}
	return string(b)
}
