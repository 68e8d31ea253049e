package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
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

// claimColumns are those that a claim needs, of every request. PostgreSQL reads
// used_before as the statement has found it. SQLite does not, and no lease lingers there.
const claimColumns = `id, session_id, model_id, owner_id, user_id, duration, provider, ends_at, {until ends_at} AS seconds_left, last_used_at,
	(SELECT last_used_at FROM automation_sessions b WHERE b.id = automation_sessions.id) AS used_before`

// leaseFree: nobody works on the row.
const leaseFree = `(lease_until IS NULL OR lease_until < {now})`

// clearLease releases a row.
const clearLease = `lane = '', lease_token = NULL, lease_holder = NULL, lease_until = NULL`

// pool says which sessions can serve a request.
type pool struct{ owner, model string }

// claimRequest is what a claim needs to know.
type claimRequest struct {
	pool
	token  string
	omit   []string // providers whose sessions will not do
	margin time.Duration
	place  place // in the queue of all replicas
}

// The claim: the usable session that ends first, so that the others can end
// unused, unless somebody who came earlier waits for it elsewhere. A session
// whose lease lapsed has cooled down first: the node may still be working.
// $1 token, $2 holder, $3 lease, $4 owner, $5 model, $6 margin, $7 omitted
// providers, $8 cool-down, $9 the waiter's id, $10 for how long it has waited.
var claimQuery = `UPDATE automation_sessions
	SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now}
	WHERE id = (` + idleSession("$4", "$5", "$6", "$7", "$8", "$9", "$10") + `)
	RETURNING ` + claimColumns

// idleSession selects what claimQuery claims. Its arguments are parameters or columns.
func idleSession(owner, model, margin, omit, coolDown, waiter, waited string) string {
	return `SELECT id FROM automation_sessions s
	WHERE owner_id = ` + owner + ` AND model_id = ` + model + ` AND state = '` + stateOpen + `' AND ends_at > {in ` + margin + `}
		AND (lease_until IS NULL OR lease_until < {in -` + coolDown + `}) AND provider NOT IN {each ` + omit + `} AND NOT ` + earlierWaiter(owner, model, waiter, waited) + `
	ORDER BY ends_at LIMIT 1 {skip}`
}

// earlierWaiter: somebody who came earlier waits for session s.
func earlierWaiter(owner, model, waiter, waited string) string {
	return `EXISTS (SELECT 1 FROM automation_waiters w
	WHERE w.owner_id = ` + owner + ` AND w.model_id = ` + model + ` AND w.id <> ` + waiter + ` AND w.until > {now} AND w.since < {in -` + waited + `}
		AND (w.omit_provider = '' OR w.omit_provider <> s.provider) AND (w.session_id = '' OR w.session_id = s.session_id))`
}

// claimAtOnce is claim for a request that does not wait, in one statement.
func (s *store) claimAtOnce(ctx context.Context, c claimRequest) (*row, error) {
	list, err := sqldb.Query[row](ctx, s.db, "sessions.claim", claimQuery, s.claimArgs(c, s.coolDown.Seconds(), "", tolerance.Seconds())...)
	if len(list) == 0 {
		return nil, err
	}
	return &list[0], err
}

// claim takes an idle session, or returns nil where there is none. A request
// that waits keeps or loses its place in the queue with it.
func (s *store) claim(ctx context.Context, c claimRequest) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.claim", func(tx *sqldb.Tx) (*row, error) {
		r, err := s.claimIn(tx, c)
		if err != nil {
			return nil, err
		}
		return r, c.place.save(tx, c.pool, r != nil)
	})
}

func (s *store) claimIn(tx *sqldb.Tx, c claimRequest) (*row, error) {
	return s.claimWith(tx, claimQuery, c, s.coolDown.Seconds(), c.place.id, (c.place.waited + tolerance).Seconds())
}

func (s *store) claimWith(tx *sqldb.Tx, query string, c claimRequest, more ...any) (*row, error) {
	var r row
	found, err := sqldb.Optional(tx.Get(&r, query, s.claimArgs(c, more...)...))
	if !found {
		return nil, err
	}
	return &r, nil
}

func (s *store) claimArgs(c claimRequest, more ...any) []any {
	return append([]any{c.token, s.holder, s.lease.Seconds(), c.owner, c.model, c.margin.Seconds(), jsonList(c.omit)}, more...)
}

// claimNamed takes the session with the chain's id for its own user. An id that
// is none of ours is noted as somebody else's, so that it is never adopted.
func (s *store) claimNamed(ctx context.Context, userID string, id ID, shared bool, c claimRequest) (*row, error) {
	type result struct {
		row *row
		err error // why it cannot be claimed
	}
	res, err := sqldb.Write(ctx, s.db, "sessions.claim_named", func(tx *sqldb.Tx) (result, error) {
		var r row
		found, err := sqldb.Optional(tx.Get(&r, `SELECT `+columns+` FROM automation_sessions WHERE session_id = $1`, id.String()))
		switch {
		case err != nil:
			return result{}, err
		case !found:
			_, err := tx.Exec(`INSERT INTO automation_foreign_sessions (session_id, seen_at) VALUES ($1, {now}) ON CONFLICT DO NOTHING`, id.String())
			return result{err: ErrUnmanaged}, err
		case r.OwnerID != userID && (r.OwnerID != "" || !shared && r.UserID != userID):
			return result{err: ErrNotYours}, nil
		case r.State != stateOpen || r.Left <= c.margin.Seconds():
			return result{err: ErrEnded}, nil
		}
		place, p := c.place, pool{r.OwnerID, r.ModelID}
		place.session = id.String()
		found, err = sqldb.Optional(tx.Get(&r, `UPDATE automation_sessions
			SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now}
			WHERE id = (SELECT id FROM automation_sessions s WHERE session_id = $7 AND owner_id = $4 AND model_id = $5 AND state = '`+stateOpen+`'
				AND ends_at > {in $6} AND (lease_until IS NULL OR lease_until < {in -$8}) AND NOT `+earlierWaiter("$4", "$5", "$9", "$10")+` {skip})
			RETURNING `+columns,
			c.token, s.holder, s.lease.Seconds(), p.owner, p.model, c.margin.Seconds(), id.String(), s.coolDown.Seconds(), place.id, (place.waited + tolerance).Seconds()))
		if err != nil {
			return result{}, err
		}
		if err := place.save(tx, p, found); err != nil || !found {
			return result{}, err
		}
		return result{row: &r}, nil
	})
	return res.row, errors.Join(err, res.err)
}

// confirmed is what a heartbeat has found of a lease that it has extended.
type confirmed struct {
	ID    string  `db:"id"`
	Token string  `db:"lease_token"`
	State string  `db:"state"`
	Left  float64 `db:"seconds_left"` // to the session's end, if it has one
}

// heartbeat extends this replica's leases. It returns those that it has extended, and
// the tokens of those that it could not extend because another transaction has locked
// the row.
func (s *store) heartbeat(ctx context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error) {
	type leases struct {
		extended map[string]confirmed
		locked   map[string]string
	}
	res, err := sqldb.Write(ctx, s.db, "sessions.heartbeat", func(tx *sqldb.Tx) (leases, error) {
		l := leases{map[string]confirmed{}, map[string]string{}}
		var rows []confirmed
		err := tx.Select(&rows, `UPDATE automation_sessions SET lease_until = {in $1}
			WHERE id IN (SELECT id FROM automation_sessions WHERE id IN {each $2} AND lease_holder = $3 {skip})
			RETURNING id, lease_token, state, COALESCE({until ends_at}, 0) AS seconds_left`,
			s.lease.Seconds(), jsonList(ids), s.holder)
		for _, r := range rows {
			l.extended[r.ID] = r
		}
		if err != nil || len(rows) == len(ids) {
			return l, err
		}
		err = tx.Select(&rows, `SELECT id, lease_token FROM automation_sessions WHERE id IN {each $1} AND lease_holder = $2`, jsonList(ids), s.holder)
		for _, r := range rows {
			if _, ok := l.extended[r.ID]; !ok {
				l.locked[r.ID] = r.Token
			}
		}
		return l, err
	})
	return res.extended, res.locked, err
}

const releaseQuery = `UPDATE automation_sessions SET ` + clearLease + `
	WHERE id = (SELECT id FROM automation_sessions WHERE id = $1 AND lease_token = $2 {skip})`

// leased: $1 ids, $2 tokens, $3 holder.
const leased = `id IN {each $1} AND lease_token IN {each $2} AND lease_holder = $3`

// releaseUnlocked ends this replica's leases; late, twice or with a wrong token it does
// nothing. With busy it ends them as if their holder had died: the sessions cool down.
// It returns those that it has left, because another transaction has locked the row.
func (s *store) releaseUnlocked(ctx context.Context, list []lease, busy bool) (locked []lease, err error) {
	var n int64
	ids, tokens := split(list)
	switch {
	case busy:
		n, err = s.count(ctx, "sessions.lapse", `UPDATE automation_sessions SET lane = '', lease_holder = '', lease_until = {now}
			WHERE id IN (SELECT id FROM automation_sessions WHERE `+leased+` {skip})`, ids, tokens, s.holder)
	case len(list) == 1:
		n, err = s.count(ctx, "sessions.release", releaseQuery, list[0].id, list[0].token)
	default:
		n, err = s.count(ctx, "sessions.release", `UPDATE automation_sessions SET `+clearLease+`
			WHERE id IN (SELECT id FROM automation_sessions WHERE `+leased+` {skip})`, ids, tokens, s.holder)
	}
	if err != nil || n == int64(len(list)) {
		return nil, err
	}
	left, err := sqldb.Read(ctx, s.db, "sessions.locked", func(tx *sqldb.Tx) (left []string, err error) {
		return left, tx.Select(&left, `SELECT lease_token FROM automation_sessions WHERE `+leased, ids, tokens, s.holder)
	})
	return slices.DeleteFunc(slices.Clone(list), func(l lease) bool { return !slices.Contains(left, l.token) }), err
}

// release releases leases that are no requests'.
func (s *store) release(ctx context.Context, list []lease) error {
	ids, tokens := split(list)
	return s.exec(ctx, "sessions.release", `UPDATE automation_sessions SET `+clearLease+`
		WHERE id IN {each $1} AND lease_token IN {each $2}`, ids, tokens)
}

// neededElsewhere returns those of sessions that lease here of which others have need: somebody
// waits for one in another replica, or it serves nobody any more.
func (s *store) neededElsewhere(ctx context.Context, ids []string) ([]string, error) {
	type needed struct {
		ID string `db:"id"`
	}
	list, err := sqldb.Query[needed](ctx, s.db, "sessions.needed", `SELECT id FROM automation_sessions s WHERE id IN {each $1}
		AND (state <> '`+stateOpen+`' OR EXISTS (SELECT 1 FROM automation_waiters w
			WHERE w.owner_id = s.owner_id AND (w.model_id = s.model_id OR s.owner_id <> '') AND w.until > {now} AND w.id NOT LIKE $2))`,
		jsonList(ids), s.holder+"%")
	found := make([]string, len(list))
	for i := range list {
		found[i] = list[i].ID
	}
	return found, err
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

// end marks a session for closing as soon as nobody uses it: a user's own, or
// anybody's where userID is empty.
func (s *store) end(ctx context.Context, userID string, id ID, reason string) (*row, error) {
	return sqldb.Write(ctx, s.db, "sessions.end", func(tx *sqldb.Tx) (*row, error) {
		var r row
		found, err := sqldb.Optional(tx.Get(&r, `UPDATE automation_sessions
			SET reason = CASE WHEN state = '`+stateOpen+`' THEN $3 ELSE reason END, next_at = {now}, state = '`+stateEnding+`'
			WHERE session_id = $1 AND ($2 = '' OR user_id = $2) AND state IN ('`+stateOpen+`', '`+stateEnding+`') AND ends_at > {now} RETURNING `+columns,
			id.String(), userID, reason))
		if !found {
			return nil, errors.Join(err, ErrUnmanaged)
		}
		return &r, err
	})
}

// eraseUser takes the user's name off all rows. Sessions that were theirs alone
// serve nobody else and are kept until they expire.
func (s *store) eraseUser(ctx context.Context, userID string) error {
	_, err := sqldb.Write(ctx, s.db, "sessions.erase_user", func(tx *sqldb.Tx) (int64, error) {
		if _, err := tx.Exec(`DELETE FROM automation_provider_failures WHERE user_id = $1`, userID); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions SET
				reason = CASE WHEN state = '`+stateOpen+`' AND owner_id <> '' THEN '`+reasonErased+`' ELSE reason END,
				state = CASE WHEN state = '`+stateOpen+`' AND owner_id <> '' THEN '`+stateEnding+`' ELSE state END,
				owner_id = '', user_id = '', charged_at = NULL
			WHERE user_id = $1 AND user_id <> ''`, userID)
	})
	return err
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
