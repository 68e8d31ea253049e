package session

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// store is the table automation_sessions. A row's lease is held by whoever
// works on the row; every change of a leased row names the lease's token.
type store struct {
	db     *sqldb.DB
	holder string // this replica, for as long as it runs
	lease  time.Duration
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
	Duration     int64          `db:"duration"`
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
}

const columns = `id, session_id, model_id, owner_id, user_id, duration, state, provider, omit_provider,
	called_at, opened_at, ends_at, COALESCE({until ends_at}, 0) AS seconds_left,
	(lease_until IS NOT NULL AND lease_until > {now}) AS in_use, attempts`

// claimColumns are those that a claim needs, of every request.
const claimColumns = `id, session_id, model_id, owner_id, provider, ends_at`

const leaseFree = `(lease_until IS NULL OR lease_until < {now})`

// The claim: the usable session that ends first, so that the others can end
// unused. $1 token, $2 holder, $3 lease, $4 owner, $5 model, $6 margin, $7 omit.
const claimQuery = `UPDATE automation_sessions
	SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now}
	WHERE id = (SELECT id FROM automation_sessions
		WHERE owner_id = $4 AND model_id = $5 AND state = '` + stateOpen + `' AND ends_at > {in $6} AND ` + leaseFree + ` AND ($7 = '' OR provider <> $7)
		ORDER BY ends_at LIMIT 1 {skip})
	RETURNING ` + claimColumns

// pool says which sessions can serve a request.
type pool struct{ owner, model string }

// claim takes an idle session, or returns nil where there is none.
func (s *store) claim(ctx context.Context, p pool, omit, token string, margin time.Duration) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.claim", func(tx *sqldb.Tx) (*row, error) {
		return s.claimIn(tx, claimQuery, p, omit, token, margin)
	})
}

func (s *store) claimIn(tx *sqldb.Tx, query string, p pool, omit, token string, margin time.Duration) (*row, error) {
	var r row
	found, err := sqldb.Optional(tx.Get(&r, query, token, s.holder, s.lease.Seconds(), p.owner, p.model, margin.Seconds(), omit))
	if !found {
		return nil, err
	}
	return &r, nil
}

// claimNamed takes the session with the chain's id for its own user.
func (s *store) claimNamed(ctx context.Context, userID, sessionID, token string, shared bool, margin time.Duration) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.claim_named", func(tx *sqldb.Tx) (*row, error) {
		var r row
		found, err := sqldb.Optional(tx.Get(&r, `SELECT `+columns+` FROM automation_sessions WHERE session_id = $1`, sessionID))
		switch {
		case err != nil:
			return nil, err
		case !found:
			return nil, ErrUnmanaged
		case r.OwnerID != userID && (r.OwnerID != "" || !shared && r.UserID != userID):
			return nil, ErrNotYours
		case r.State != stateOpen || r.Left <= margin.Seconds():
			return nil, ErrEnded
		}
		found, err = sqldb.Optional(tx.Get(&r, `UPDATE automation_sessions
			SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now}
			WHERE session_id = $4 AND owner_id = $5 AND state = '`+stateOpen+`' AND ends_at > {in $6} AND `+leaseFree+` RETURNING `+columns,
			token, s.holder, s.lease.Seconds(), sessionID, r.OwnerID, margin.Seconds()))
		if !found {
			return nil, err
		}
		return &r, nil
	})
}

// heartbeat extends this replica's leases and returns those it still has.
func (s *store) heartbeat(ctx context.Context, ids []string) (map[string]string, error) {
	return sqldb.Write(ctx, s.db, "sessions.heartbeat", func(tx *sqldb.Tx) (map[string]string, error) {
		var rows []struct {
			ID    string `db:"id"`
			Token string `db:"lease_token"`
		}
		err := tx.Select(&rows, `UPDATE automation_sessions SET lease_until = {in $1}
			WHERE id IN {each $2} AND lease_holder = $3 RETURNING id, lease_token`, s.lease.Seconds(), jsonList(ids), s.holder)
		kept := make(map[string]string, len(rows))
		for _, r := range rows {
			kept[r.ID] = r.Token
		}
		return kept, err
	})
}

const releaseQuery = `UPDATE automation_sessions SET ` + clearLease + ` WHERE id = $1 AND lease_token = $2`

// release gives leases back; late, twice or with a wrong token it does nothing.
func (s *store) release(ctx context.Context, list []lease) error {
	if len(list) == 1 { // a request's, which is nearly always so
		return s.exec(ctx, "sessions.release", releaseQuery, list[0].id, list[0].token)
	}
	ids, tokens := split(list)
	return s.exec(ctx, "sessions.release", `UPDATE automation_sessions SET `+clearLease+`
		WHERE id IN {each $1} AND lease_token IN {each $2}`, ids, tokens)
}

// retire takes a claimed session out of service. It is closed when the chain's
// end has passed, because closing earlier locks the stake for longer than a
// session lasts.
func (s *store) retire(ctx context.Context, l lease, reason string) error {
	return s.exec(ctx, "sessions.retire", `UPDATE automation_sessions SET state = '`+stateEnding+`', reason = $3
		WHERE id = $1 AND lease_token = $2 AND state = '`+stateOpen+`'`, l.id, l.token, reason)
}

// list returns a user's sessions that have not ended.
func (s *store) list(ctx context.Context, userID string) ([]row, error) {
	return sqldb.Read(ctx, s.db, "sessions.list", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		err := tx.Select(&rows, `SELECT `+columns+` FROM automation_sessions
			WHERE user_id = $1 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now} ORDER BY ends_at, id`, userID)
		return rows, err
	})
}

// end marks a user's session for closing as soon as nobody uses it.
func (s *store) end(ctx context.Context, userID, sessionID, reason string) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.end", func(tx *sqldb.Tx) (*row, error) {
		var r row
		found, err := sqldb.Optional(tx.Get(&r, `UPDATE automation_sessions
			SET reason = CASE WHEN state = '`+stateOpen+`' THEN $3 ELSE reason END, next_at = {now}, state = '`+stateEnding+`'
			WHERE session_id = $1 AND user_id = $2 AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now} RETURNING `+columns, sessionID, userID, reason))
		if !found {
			return nil, errors.Join(err, ErrUnmanaged)
		}
		return &r, err
	})
}

// eraseUser takes the user's name off all rows. Sessions that were theirs alone
// serve nobody else and are kept until they expire.
func (s *store) eraseUser(ctx context.Context, userID string) error {
	return s.exec(ctx, "sessions.erase_user", `UPDATE automation_sessions SET
			reason = CASE WHEN state = '`+stateOpen+`' AND owner_id <> '' THEN '`+reasonErased+`' ELSE reason END,
			state = CASE WHEN state = '`+stateOpen+`' AND owner_id <> '' THEN '`+stateEnding+`' ELSE state END,
			owner_id = '', user_id = '', charged_at = NULL
		WHERE user_id = $1 AND user_id <> ''`, userID)
}

func (s *store) exec(ctx context.Context, name, query string, args ...any) error {
	_, err := s.count(ctx, name, query, args...)
	return err
}

func (s *store) count(ctx context.Context, name, query string, args ...any) (int64, error) {
	return sqldb.Write(ctx, s.db, name, func(tx *sqldb.Tx) (int64, error) { return tx.Exec(query, args...) })
}
