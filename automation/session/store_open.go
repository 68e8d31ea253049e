package session

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// limits are the caps that a reservation obeys.
type limits struct{ perUser, perHour, perDay, total int }

// reserveRequest is what a request that found no idle session asks of the database.
type reserveRequest struct {
	pool
	named    string // the session that the client named, if it did
	user     string
	omit     string
	duration time.Duration
	margin   time.Duration
	token    string  // for a claim
	opens    []lease // what may be opened, fewer where a cap says so
	replaces string  // the row that an open ahead of its end succeeds
	prewarm  bool    // only where no session is idle
}

// cause is why it wants a session, for an Event.
func (o reserveRequest) cause() string {
	switch {
	case o.prewarm:
		return "prewarm"
	case o.replaces != "":
		return "renewal"
	}
	return "request"
}

// answer is what became of an order.
type reserveResult struct {
	claimed *row
	opens   []lease // the intents that were written
	// How the pool stands, without the new intents.
	Live    int          `db:"live"`
	Idle    int          `db:"idle"` // of these, in nobody's use
	Opening int          `db:"opening"`
	Unknown int          `db:"unknown"`
	Stuck   int          `db:"stuck"` // unknown, and the node cannot be asked
	capped  bool         // there are fewer opens than asked for
	refused *BudgetError // why there may be none at all
}

// takeIdleQuery is claimQuery for a session that was opened for nobody yet:
// it becomes the user's and is charged to them.
const takeIdleQuery = `UPDATE automation_sessions
	SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now},
		owner_id = $4, user_id = $4, charged_at = {now}
	WHERE id = (SELECT id FROM automation_sessions
		WHERE owner_id = '' AND user_id = '' AND model_id = $5 AND state = '` + stateOpen + `' AND ends_at > {in $6} AND ` + leaseFree + ` AND ($7 = '' OR provider <> $7)
		ORDER BY ends_at LIMIT 1 {skip})
	RETURNING ` + claimColumns

// reserve claims what has become idle meanwhile, or writes the intents to open
// sessions, as many as the caps allow. It runs under the user's lock, so the
// caps are exact whoever else is acquisition.
func (s *store) reserve(ctx context.Context, o reserveRequest, l limits) (reserveResult, error) {
	return sqldb.Write(ctx, s.db, "sessions.reserve", func(tx *sqldb.Tx) (reserveResult, error) {
		var a reserveResult
		if err := tx.Lock("user:" + o.user); err != nil {
			return a, err
		}
		if l.total > 0 {
			if err := tx.Lock("sessions"); err != nil {
				return a, err
			}
		}
		var err error
		if o.token != "" {
			if a.claimed, err = s.claimIn(tx, claimQuery, o.pool, o.omit, o.token, o.margin); a.claimed != nil || err != nil {
				return a, err
			}
		}
		if err := tx.Get(&a, `SELECT count(CASE WHEN state = '`+stateOpen+`' THEN 1 END) AS live,
				count(CASE WHEN state = '`+stateOpen+`' AND `+leaseFree+` THEN 1 END) AS idle,
				count(CASE WHEN state = '`+stateOpening+`' THEN 1 END) AS opening, count(CASE WHEN state = '`+stateUnknown+`' THEN 1 END) AS unknown,
				count(CASE WHEN state = '`+stateUnknown+`' AND reason = '`+reasonUnreachable+`' THEN 1 END) AS stuck
			FROM automation_sessions
			WHERE owner_id = $1 AND model_id = $2 AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateOpen+`') AND (ends_at IS NULL OR ends_at > {in $3})
				AND ($4 = '' OR provider <> $4)`,
			o.owner, o.model, o.margin.Seconds(), o.omit); err != nil {
			return a, err
		}
		// What has become idle since the claim above looked, or is just being
		// claimed, needs no open next to it: the next look claims it.
		if o.token != "" {
			o.opens = o.opens[:max(len(o.opens)-a.Idle, 0)]
		}
		if a.Unknown > 0 || len(o.opens) == 0 {
			return a, nil // nothing more before it is known what was opened
		}
		if o.prewarm {
			if n, err := idleIn(tx, o.model, o.margin); n > 0 || err != nil {
				return a, err
			}
		}
		n, refused, err := s.quota(tx, o, l)
		if err != nil {
			return a, err
		}
		a.capped, a.refused = n < len(o.opens), refused
		if n > 0 && o.owner != "" && o.token != "" {
			if a.claimed, err = s.claimIn(tx, takeIdleQuery, o.pool, o.omit, o.token, o.margin); a.claimed != nil || err != nil {
				return a, err
			}
		}
		for _, in := range o.opens[:min(n, len(o.opens))] {
			written, err := tx.Exec(`INSERT INTO automation_sessions (id, model_id, owner_id, user_id, charged_at, duration, state, omit_provider,
					replaces, lease_token, lease_holder, lease_until, created_at, next_at)
				VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN {now} END, $6, '`+stateOpening+`', $7, NULLIF($8, ''), $9, $10, {in $11}, {now}, {now})
				ON CONFLICT (replaces) DO NOTHING`,
				in.id, o.model, o.owner, o.user, o.user != "", int64(o.duration.Seconds()), o.omit, o.replaces, in.token, s.holder, s.lease.Seconds())
			if err != nil {
				return a, err
			}
			if written > 0 {
				a.opens = append(a.opens, in)
			}
		}
		return a, nil
	})
}

// quota returns how many sessions the user may open now. If none, it says what
// forbids it for longest.
func (s *store) quota(tx *sqldb.Tx, o reserveRequest, l limits) (n int, refused *BudgetError, err error) {
	n = math.MaxInt
	limit := func(name string, most, have int, seconds float64) {
		n = min(n, max(most-have, 0))
		retry := max(time.Second, time.Duration(math.Ceil(seconds))*time.Second)
		if have >= most && (refused == nil || retry > refused.RetryAfter) {
			refused = &BudgetError{Limit: name, Max: most, RetryAfter: retry}
		}
	}
	const live = `` + counted + ` AND (ends_at IS NULL OR ends_at > {now})`
	var c struct {
		N     int     `db:"n"`
		Retry float64 `db:"retry"`
	}
	if l.total > 0 {
		if err := tx.Get(&c, `SELECT count(*) AS n, COALESCE(MIN({until ends_at}), 5) AS retry FROM automation_sessions WHERE `+live); err != nil {
			return 0, nil, err
		}
		limit(LimitTotal, l.total, c.N, c.Retry)
	}
	if o.user == "" {
		return n, refused, nil
	}
	if l.perUser > 0 {
		// A session that nobody would be given any more, retired or too near its
		// end, keeps no user from a better one. A successor takes its
		// predecessor's place and does not count next to it.
		if err := tx.Get(&c, `SELECT count(*) AS n, COALESCE(MIN({until ends_at}) - $3, 5) AS retry FROM automation_sessions s
			WHERE user_id = $1 AND `+counted+` AND (ends_at IS NULL OR ends_at > {in $3})
				AND reason NOT IN ('`+reasonBroken+`', '`+reasonExpired+`') AND id <> $2 AND NOT EXISTS (SELECT 1 FROM automation_sessions old
				WHERE old.id = s.replaces AND old.state IN ('`+stateOpen+`', '`+stateEnding+`') AND old.ends_at > {now})`, o.user, o.replaces, o.margin.Seconds()); err != nil {
			return 0, nil, err
		}
		limit(LimitSessions, l.perUser, c.N, c.Retry)
	}
	for _, b := range []struct {
		name   string
		most   int
		window float64
	}{{LimitHour, l.perHour, 3600}, {LimitDay, l.perDay, 86400}} {
		if b.most == 0 {
			continue
		}
		// It opens again when the most-th newest open leaves the window.
		if err := tx.Get(&c, `SELECT count(*) AS n, COALESCE(MIN(age), 0) AS retry FROM (
				SELECT {until charged_at} + $2 AS age FROM automation_sessions
				WHERE user_id = $1 AND user_id <> '' AND state <> '`+stateFailed+`' AND charged_at > {in -$2} ORDER BY charged_at DESC LIMIT $3) newest`,
			o.user, b.window, b.most); err != nil {
			return 0, nil, err
		}
		limit(b.name, b.most, c.N, c.Retry)
	}
	return n, refused, nil
}

// beginCall lets an intent call the node: next to others, or alone where the wallet
// has collided lately or asked is set. It returns when the call was entered,
// or the zero time where it has to wait.
func (s *store) beginCall(ctx context.Context, l lease, asked bool, window time.Duration) (time.Time, error) {
	return sqldb.Write(ctx, s.db, "sessions.begin_call", func(tx *sqldb.Tx) (time.Time, error) {
		w, err := wallet(tx, l.id)
		if err != nil {
			return time.Time{}, err
		}
		lane := walletShared
		if asked || w.Alone {
			lane = walletExclusive
		}
		if w.InAlone > 0 || lane == walletExclusive && w.InShared > 0 {
			return time.Time{}, nil
		}
		var called sqldb.Time
		found, err := sqldb.Optional(tx.Get(&called, `UPDATE automation_sessions SET lane = $3, called_at = COALESCE(called_at, {now})
			WHERE id = $1 AND lease_token = $2 AND state = '`+stateOpening+`' RETURNING called_at`, l.id, l.token, lane))
		if err != nil {
			return time.Time{}, err
		}
		if !found {
			return time.Time{}, ErrLeaseLost
		}
		if asked { // slides as long as collided calls are repeated
			_, err = tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, window.Seconds())
		}
		return called.Time, err
	})
}

type walletState struct {
	Alone    bool `db:"alone"`     // within the window after a collision
	InAlone  int  `db:"in_alone"`  // others in their call, alone
	InShared int  `db:"in_shared"` // others in their call, side by side
}

// wallet reads it under its lock.
func wallet(tx *sqldb.Tx, but string) (walletState, error) {
	var w walletState
	if err := tx.Lock("wallet"); err != nil {
		return w, err
	}
	err := tx.Get(&w, `SELECT w.alone_until > {now} AS alone,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletExclusive+`' AND id <> $1 AND lease_until > {now}) AS in_alone,
			(SELECT count(*) FROM automation_sessions WHERE lane <> '' AND lane = '`+walletShared+`' AND id <> $1 AND lease_until > {now}) AS in_shared
		FROM automation_wallet w`, but)
	return w, err
}

// collided leaves the lane and makes the wallet's calls go one at a time.
func (s *store) collided(ctx context.Context, l lease, window time.Duration) error {
	_, err := sqldb.Write(ctx, s.db, "sessions.collided", func(tx *sqldb.Tx) (int64, error) {
		if err := tx.Lock("wallet"); err != nil {
			return 0, err
		}
		if _, err := tx.Exec(`UPDATE automation_wallet SET alone_until = {in $1}`, window.Seconds()); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions SET lane = '' WHERE id = $1 AND lease_token = $2`, l.id, l.token)
	})
	return err
}

// undo takes back a reservation whose outcome is unknown, or that nobody can
// use: a claim by its token, and the intents that have not called the node.
func (s *store) undo(ctx context.Context, o reserveRequest) error {
	ids, tokens := split(o.opens)
	_, err := sqldb.Write(ctx, s.db, "sessions.undo", func(tx *sqldb.Tx) (int64, error) {
		if o.named != "" {
			return tx.Exec(`UPDATE automation_sessions SET `+clearLease+` WHERE session_id = $1 AND lease_token = $2`, o.named, o.token)
		}
		if _, err := tx.Exec(`UPDATE automation_sessions SET `+clearLease+`
			WHERE owner_id = $1 AND model_id = $2 AND state = '`+stateOpen+`' AND lease_token = $3`, o.owner, o.model, o.token); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions
			SET state = '`+stateFailed+`', reason = '`+reasonNotAsked+`', closed_at = {now}, replaces = NULL, `+clearLease+`
			WHERE id IN {each $1} AND lease_token IN {each $2} AND state = '`+stateOpening+`' AND called_at IS NULL`, ids, tokens)
	})
	return err
}

const clearLease = `lane = '', lease_token = NULL, lease_holder = NULL, lease_until = NULL`

// complete makes an intent a session. It works with the lease, and without it
// as long as the row has no session: what the node opened must be in a row,
// however late the news. It returns false if the row is taken.
func (s *store) complete(ctx context.Context, l lease, c ChainSession, closeAfter time.Duration) (bool, error) {
	n, err := s.count(ctx, "sessions.complete", `UPDATE automation_sessions
		SET state = '`+stateOpen+`', session_id = $3, provider = $4, opened_at = {unix $5}, ends_at = {unix $6}, next_at = {unix $7},
			unknown_at = NULL, closed_at = NULL, attempts = 0, reason = '', last_error = '', `+clearLease+`
		WHERE id = $1 AND session_id IS NULL AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`', '`+stateFailed+`')
			AND (lease_token = $2 OR state <> '`+stateOpening+`')`,
		l.id, l.token, c.ID, c.Provider, c.OpenedAt.Unix(), c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix())
	if sqldb.IsConstraint(err) {
		return false, nil // session_id is unique: another row has it
	}
	return n > 0, err
}

// insertOrphan writes a row for a session whose intent has got another one meanwhile.
func (s *store) insertOrphan(ctx context.Context, id string, of lease, c ChainSession, closeAfter time.Duration) error {
	return s.exec(ctx, "sessions.insert_orphan", `INSERT INTO automation_sessions
			(id, session_id, model_id, owner_id, user_id, charged_at, duration, state, provider, created_at, called_at, opened_at, ends_at, next_at)
		SELECT $1, $2, model_id, owner_id, user_id, charged_at, duration, '`+stateOpen+`', $3, {now}, called_at, {unix $4}, {unix $5}, {unix $6}
		FROM automation_sessions WHERE id = $7 ON CONFLICT (session_id) DO NOTHING`,
		id, c.ID, c.Provider, c.OpenedAt.Unix(), c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix(), of.id)
}

// fail ends an intent of which it is certain that nothing was opened.
func (s *store) fail(ctx context.Context, l lease, reason, text string) error {
	return s.exec(ctx, "sessions.fail", `UPDATE automation_sessions
		SET state = '`+stateFailed+`', reason = $3, last_error = $4, closed_at = {now}, replaces = NULL, `+clearLease+`
		WHERE id = $1 AND lease_token = $2 AND session_id IS NULL`, l.id, l.token, reason, text)
}

// markUnknown gives an intent to the reconciler, which looks at it at once.
func (s *store) markUnknown(ctx context.Context, l lease, text string) error {
	return s.exec(ctx, "sessions.mark_unknown", `UPDATE automation_sessions
		SET state = '`+stateUnknown+`', reason = '', unknown_at = COALESCE(unknown_at, {now}), next_at = {now}, last_error = $3, `+clearLease+`
		WHERE id = $1 AND lease_token = $2 AND session_id IS NULL`, l.id, l.token, text)
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
	if list == nil {
		list = []string{}
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // texts always marshal
	}
	return string(b)
}
