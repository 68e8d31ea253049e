package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// store is the table automation_sessions. A row's lease is held by whoever
// works on the row; every change of a leased row names the lease's token.
type store struct {
	db       *sqldb.DB
	holder   string // this replica, for as long as it runs
	lease    time.Duration
	coolDown time.Duration
}

// lease names a row and the token that it is held with.
type lease struct{ id, token string }

// row is what the manager needs of a session.
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
	Left         float64        `db:"seconds_left"` // to its end, on the database's clock
	InUse        bool           `db:"in_use"`
	Attempts     int            `db:"attempts"`
	TakenOver    bool           `db:"taken_over"` // its opener let the lease end; takeUnresolved alone says so

	// What claimColumns alone have.
	LastUsedAt sqldb.Time `db:"last_used_at"` // when it was claimed
	UsedBefore sqldb.Time `db:"used_before"`  // and when before that
}

func (r *row) pool() pool { return pool{r.OwnerID, r.ModelID} }

// chosen is how long the user wanted the session to last.
func (r *row) chosen() time.Duration { return time.Duration(r.Duration) * time.Second }

const columns = `id, session_id, model_id, owner_id, user_id, duration, fingerprint, state, provider, omit_provider,
	called_at, opened_at, ends_at, COALESCE({until ends_at}, 0) AS seconds_left,
	(lease_until IS NOT NULL AND lease_until > {now}) AS in_use, attempts`

// pool says which sessions can serve a request.
type pool struct{ owner, model string }

// list returns a user's sessions that have not ended.
func (s *store) list(ctx context.Context, userID string) ([]row, error) {
	return sqldb.Read(ctx, s.db, "sessions.list", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `SELECT `+columns+` FROM automation_sessions
			WHERE user_id = $1 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now} ORDER BY ends_at, id`, userID)
		return rows, err
	})
}

func (s *store) exec(ctx context.Context, name, query string, args ...any) error {
	_, err := s.count(ctx, name, query, args...)
	return err
}

// count is exec, with the number of rows. All its statements may be repeated: they
// name a lease's token or a state, or set what a repetition sets as well.
func (s *store) count(ctx context.Context, name, query string, args ...any) (int64, error) {
	return sqldb.Exec(ctx, s.db, name, query, args...)
}

// split makes two parameters of a list of leases.
func split(list []lease) (ids, tokens string) {
	i, t := make([]string, len(list)), make([]string, len(list))
	for n, l := range list {
		i[n], t[n] = l.id, l.token
	}
	return jsonList(i), jsonList(t)
}

// jsonList is a list of texts as one parameter.
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
