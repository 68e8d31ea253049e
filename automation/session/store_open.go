package session

import (
	"context"
	"crypto/rand"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// limits are the caps that a reservation obeys.
type limits struct{ perUser, perHour, perDay, total, replacements, allReplacements int }

func (m *Manager) limits() limits {
	return limits{m.opts.MaxPerUser, m.opts.OpensPerHour, m.opts.OpensPerDay, m.opts.MaxOpen,
		m.opts.MaxReplacementsPerHour, m.opts.MaxReplacementsPerHourTotal}
}

// reserveRequest is what a request that found no idle session asks of the
// database, and what the maintenance asks that wants one opened.
type reserveRequest struct {
	claimRequest                 // with a token where an idle session will do
	named          ID            // the session that the client named, if it did
	user           string        // who pays, or empty
	omitProvider   string        // for the node
	duration       time.Duration // that the user chose
	ceiling        time.Duration // to which the chain shortens, or zero
	purpose        string
	replaces       string  // the row whose successor is to be opened
	demand         *demand // of a queue; nil: one session, or none for a request
	inUseMayLinger bool    // sessions in use count as idle: they may be in a moment
	ids            []lease // of the intents that may be written
}

// newIntents returns the names of as many intents as there may be.
func newIntents(d *demand, purpose string) []lease {
	n := 1
	switch {
	case d != nil:
		n = min(d.unpaid, 64)
	case purpose == purposeRequest:
		n = 0
	}
	list := make([]lease, n)
	for i := range list {
		list[i] = lease{rand.Text(), rand.Text()}
	}
	return list
}

// intent is an open that has been written down.
type intent struct {
	lease
	length time.Duration // to ask of the chain
}

// reserveResult is what became of a reserveRequest.
type reserveResult struct {
	claimed *row
	opens   []intent
	// How the pool stands, without the new intents.
	Live    int          `db:"live"`
	Idle    int          `db:"idle"`  // of these, in nobody's use
	Ready   int          `db:"ready"` // idle sessions that were opened for nobody yet
	Opening int          `db:"opening"`
	Unknown int          `db:"unknown"`
	Stuck   int          `db:"stuck"` // unknown, and the node cannot be asked
	capped  bool         // there are fewer opens than wanted
	refused *BudgetError // why there may be none at all
}

// takeIdleQuery is claimQuery for a session that was opened for nobody yet:
// it becomes the user's and is charged to them.
const takeIdleQuery = `UPDATE automation_sessions
	SET lease_token = $1, lease_holder = $2, lease_until = {in $3}, last_used_at = {now},
		owner_id = $4, user_id = $4, charged_at = {now}
	WHERE id = (SELECT id FROM automation_sessions
		WHERE owner_id = '' AND user_id = '' AND model_id = $5 AND state = '` + stateOpen + `' AND ends_at > {in $6}
			AND (lease_until IS NULL OR lease_until < {in -$8}) AND provider NOT IN {each $7}
		ORDER BY ends_at LIMIT 1 {skip})
	RETURNING ` + claimColumns

// reserve claims what has become idle meanwhile, or writes the intents to open
// sessions, as many as the caps allow. It runs under the user's lock, so the
// caps are exact whoever else asks.
func (s *store) reserve(ctx context.Context, r reserveRequest, l limits) (reserveResult, error) {
	locks := []string{"user:" + r.user}
	if l.total > 0 || r.purpose == purposeReplacement {
		locks = append(locks, "sessions")
	}
	return sqldb.WriteLocked(ctx, s.db, "sessions.reserve", locks, func(tx *sqldb.Tx) (reserveResult, error) {
		res, err := s.reserveIn(tx, r, l)
		if err != nil {
			return reserveResult{}, err
		}
		return res, r.place.save(tx, r.pool, res.claimed != nil)
	})
}

func (s *store) reserveIn(tx *sqldb.Tx, r reserveRequest, l limits) (res reserveResult, err error) {
	if r.token != "" {
		if res.claimed, err = s.claimIn(tx, r.claimRequest); res.claimed != nil || err != nil {
			return res, err
		}
	}
	if err := s.countPool(tx, r, &res); err != nil {
		return res, err
	}
	ending := 0
	if r.inUseMayLinger {
		res.Idle = res.Live
	} else if r.demand != nil {
		ending = r.demand.ending
	}
	n := len(r.ids)
	if r.demand != nil {
		d := *r.demand
		d.live, d.idle, d.opening, d.ending = res.Live, res.Idle, res.Opening, ending
		n = min(n, d.opens())
	}
	if res.Unknown > 0 || n == 0 {
		return res, nil // nothing more before it is known what was opened
	}
	if r.purpose == purposeReplacement && res.Idle > 0 {
		return res, nil // another transaction has locked it for a moment
	}
	if r.purpose == purposePrewarm {
		if ready, err := s.idleIn(tx, r.model, r.margin); ready > 0 || err != nil {
			return res, err
		}
	}
	allowed, refused, err := s.quota(tx, r, l, res.Live+res.Opening)
	if err != nil {
		return res, err
	}
	if allowed > 0 && r.owner != "" && r.token != "" && res.Ready > 0 {
		if res.claimed, err = s.claimWith(tx, takeIdleQuery, r.claimRequest, s.coolDown.Seconds()); res.claimed != nil || err != nil {
			return res, err
		}
		if r.demand.stalled < r.demand.open {
			return res, nil // it is locked, mostly for a moment: no reason to pay yet
		}
	}
	res.capped, res.refused = allowed < n, refused
	res.opens, err = s.insertIntents(tx, r, min(n, allowed))
	return res, err
}

// countPool counts the pool's sessions: those that serve, and those on their way.
func (s *store) countPool(tx *sqldb.Tx, r reserveRequest, res *reserveResult) error {
	return tx.Get(res, `SELECT count(CASE WHEN state = '`+stateOpen+`' THEN 1 END) AS live,
			count(CASE WHEN state = '`+stateOpen+`' AND (lease_until IS NULL OR lease_until < {in -$5}) THEN 1 END) AS idle,
			count(CASE WHEN state = '`+stateOpening+`' THEN 1 END) AS opening, count(CASE WHEN state = '`+stateUnknown+`' THEN 1 END) AS unknown,
			count(CASE WHEN state = '`+stateUnknown+`' AND reason = '`+reasonUnreachable+`' THEN 1 END) AS stuck,
			(SELECT count(*) FROM automation_sessions WHERE owner_id = '' AND user_id = '' AND model_id = $2 AND state = '`+stateOpen+`' AND ends_at > {in $3}
				AND (lease_until IS NULL OR lease_until < {in -$5}) AND provider NOT IN {each $4}) AS ready
		FROM automation_sessions
		WHERE owner_id = $1 AND model_id = $2 AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateOpen+`') AND (ends_at IS NULL OR ends_at > {in $3})
			AND provider NOT IN {each $4} AND id <> $6`, r.owner, r.model, r.margin.Seconds(), jsonList(r.omit), s.coolDown.Seconds(), r.replaces)
}

// insertIntents writes up to n intents, each with a length of its own.
func (s *store) insertIntents(tx *sqldb.Tx, r reserveRequest, n int) (list []intent, err error) {
	if n <= 0 {
		return nil, nil
	}
	free, err := freeFingerprints(tx, r.duration, r.ceiling, n)
	if err != nil {
		return nil, err
	}
	charged := r.user != "" && r.purpose != purposeReplacement
	for _, f := range free {
		if len(list) == n {
			break
		}
		in := r.ids[len(list)]
		written, err := tx.Exec(`INSERT INTO automation_sessions (id, model_id, owner_id, user_id, charged_at, duration, fingerprint, purpose, state, omit_provider,
				replaces, lease_token, lease_holder, lease_until, created_at, next_at)
			VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN {now} END, $6, $7, $8, '`+stateOpening+`', $9, NULLIF($10, ''), $11, $12, {in $13}, {now}, {now})
			ON CONFLICT DO NOTHING`,
			in.id, r.model, r.owner, r.user, charged, int64(r.duration.Seconds()), f, r.purpose, r.omitProvider, r.replaces, in.token, s.holder, s.lease.Seconds())
		if err != nil {
			return nil, err
		}
		if written > 0 {
			list = append(list, intent{in, time.Duration(f) * time.Second})
			continue
		}
		if r.replaces != "" { // it has a successor, or another replica was faster with the length
			var successors int
			if err := tx.Get(&successors, `SELECT count(*) FROM automation_sessions WHERE replaces = $1`, r.replaces); err != nil || successors > 0 {
				return list, err
			}
		}
	}
	return list, nil
}

// quota returns how many sessions the user may open now. If none, it says what
// forbids it for longest. The pool has that many sessions already, or soon.
func (s *store) quota(tx *sqldb.Tx, r reserveRequest, l limits, inPool int) (n int, refused *BudgetError, err error) {
	n = math.MaxInt
	limit := func(name string, most, allowed int, seconds float64) {
		n = min(n, max(allowed, 0))
		retry := max(time.Second, time.Duration(math.Ceil(seconds))*time.Second)
		if allowed <= 0 && (refused == nil || retry > refused.RetryAfter) {
			refused = &BudgetError{Limit: name, Max: most, RetryAfter: retry}
		}
	}
	if l.total > 0 {
		const live = counted + ` AND (ends_at IS NULL OR ends_at > {now})`
		var c struct {
			N     int     `db:"n"`
			Retry float64 `db:"retry"`
		}
		if err := tx.Get(&c, `SELECT count(*) AS n, COALESCE(MIN({until ends_at}), 5) AS retry FROM automation_sessions WHERE `+live); err != nil {
			return 0, nil, err
		}
		limit(LimitTotal, l.total, l.total-c.N, c.Retry)
	}
	if r.user == "" {
		return n, refused, nil
	}
	var window time.Duration
	switch {
	case r.purpose == purposeReplacement: // it has a quota of its own
	case l.perDay > 0:
		window = day
	case l.perHour > 0:
		window = time.Hour
	}
	c, err := countUser(tx, r.user, r.model, r.replaces, r.margin, l, window)
	if err != nil {
		return 0, nil, err
	}
	if l.perUser > 0 {
		limit(LimitSessions, l.perUser, placesFor(r, l.perUser-c.Placed, inPool), soon.Seconds())
		limit(LimitSessions, maxOpenPerUser(l.perUser), placesFor(r, maxOpenPerUser(l.perUser)-c.Open, inPool), c.Free)
	}
	if r.purpose == purposeReplacement {
		return n, refused, s.replacementQuota(tx, r, l, limit)
	}
	if l.perHour > 0 {
		limit(LimitHour, l.perHour, l.perHour-c.Hour, c.HourFree)
	}
	if l.perDay > 0 {
		limit(LimitDay, l.perDay, l.perDay-c.Day, c.DayFree)
	}
	return n, refused, nil
}

// maxOpenPerUser is how many open sessions a user may have in all. Idle ones of other
// models give way to a new one, but a paid session is kept until its end, because
// an early close would lock its stake: so there may be as many again.
func maxOpenPerUser(perUser int) int { return 2 * perUser }

// soon is when to try again where a session may become idle at any moment.
const soon = 5 * time.Second

const day = 24 * time.Hour

// userCounts is what a user's limits are held against: their open sessions and those on their
// way, and the opens that were charged to them lately.
type userCounts struct {
	Open     int     `db:"n"`
	InUse    int     `db:"in_use"`    // of these, in use or being opened
	Placed   int     `db:"placed"`    // the same, and the idle ones of the model that is asked for
	Free     float64 `db:"free"`      // seconds until the first is out of the way
	Hour     int     `db:"hour"`      // opens within the hour
	HourFree float64 `db:"hour_free"` // seconds until the limit allows one more, if it is used up
	Day      int     `db:"day"`       // and within the day
	DayFree  float64 `db:"day_free"`
}

// countUser counts in one statement. A session that nobody would be given any more, retired or
// too near its end, keeps no user from a better one. A successor takes its predecessor's place
// and does not count next to it. Opens are counted as far back as window. A limit on them allows
// one more when, of as many as it allows, the newest ones, the oldest leaves the hour or the day.
func countUser(tx *sqldb.Tx, user, model, replaced string, margin time.Duration, l limits, window time.Duration) (c userCounts, err error) {
	const inUse = `state IN ('` + stateOpening + `', '` + stateUnknown + `') OR lease_until > {now}`
	err = tx.Get(&c, `WITH held AS (SELECT count(*) AS n, count(CASE WHEN `+inUse+` THEN 1 END) AS in_use,
				count(CASE WHEN `+inUse+` OR model_id = $4 THEN 1 END) AS placed, COALESCE(MIN({until ends_at}) - $3, 5) AS free
			FROM automation_sessions s
			WHERE user_id = $1 AND `+counted+` AND (ends_at IS NULL OR ends_at > {in $3})
				AND reason <> '`+reasonExpired+`' AND id <> $2 AND NOT EXISTS (SELECT 1 FROM automation_sessions old
				WHERE old.id = s.replaces AND old.state IN ('`+stateOpen+`', '`+stateEnding+`') AND old.ends_at > {now})),
		newest AS (SELECT {until charged_at} AS age, row_number() OVER (ORDER BY charged_at DESC) AS place FROM automation_sessions
			WHERE user_id = $1 AND user_id <> '' AND state <> '`+stateFailed+`' AND charged_at > {in -$5}),
		charged AS (SELECT count(CASE WHEN age > -3600 THEN 1 END) AS hour, COALESCE(MIN(CASE WHEN age > -3600 AND place <= $6 THEN age + 3600 END), 0) AS hour_free,
				count(*) AS day, COALESCE(MIN(CASE WHEN place <= $7 THEN age + 86400 END), 0) AS day_free FROM newest)
		SELECT n, in_use, placed, free, hour, hour_free, day, day_free FROM held, charged`,
		user, replaced, margin.Seconds(), model, window.Seconds(), l.perHour, l.perDay)
	return c, err
}

// placesFor returns how many of a user's free places a pool may take. A second
// session of a model leaves one place for another model.
func placesFor(r reserveRequest, free, inPool int) int {
	if r.purpose != purposeRequest {
		return free
	}
	if inPool > 0 {
		return free - 1
	}
	return max(free-1, min(free, 1))
}

// replacementQuota counts the sessions that were opened in the place of broken
// ones within the hour: of the user and model, and in all.
func (s *store) replacementQuota(tx *sqldb.Tx, r reserveRequest, l limits, limit func(name string, most, allowed int, seconds float64)) error {
	var c struct {
		Mine    int     `db:"mine"`
		All     int     `db:"everybody"`
		MyRetry float64 `db:"my_retry"`
		Retry   float64 `db:"retry"`
	}
	if err := tx.Get(&c, `SELECT count(CASE WHEN user_id = $1 AND model_id = $2 THEN 1 END) AS mine, count(*) AS everybody,
			COALESCE(MIN(CASE WHEN user_id = $1 AND model_id = $2 THEN {until created_at} END), 0) + 3600 AS my_retry,
			COALESCE(MIN({until created_at}), 0) + 3600 AS retry
		FROM automation_sessions WHERE purpose = '`+purposeReplacement+`' AND created_at > {in -3600} AND state <> '`+stateFailed+`'`, r.user, r.model); err != nil {
		return err
	}
	limit(LimitReplacements, l.replacements, l.replacements-c.Mine, c.MyRetry)
	limit(LimitReplacementsTotal, l.allReplacements, l.allReplacements-c.All, c.Retry)
	return nil
}

// undo takes back a reservation whose outcome is unknown, or that nobody can
// use: a claim by its token, and the intents that have not called the node.
func (s *store) undo(ctx context.Context, r reserveRequest) error {
	ids, tokens := split(r.ids)
	_, err := sqldb.Write(ctx, s.db, "sessions.undo", func(tx *sqldb.Tx) (int64, error) {
		if r.named != "" {
			return tx.Exec(`UPDATE automation_sessions SET `+clearLease+` WHERE session_id = $1 AND lease_token = $2`, r.named.String(), r.token)
		}
		if _, err := tx.Exec(`UPDATE automation_sessions SET `+clearLease+`
			WHERE owner_id = $1 AND model_id = $2 AND state = '`+stateOpen+`' AND lease_token = $3`, r.owner, r.model, r.token); err != nil {
			return 0, err
		}
		return tx.Exec(`UPDATE automation_sessions
			SET state = '`+stateFailed+`', reason = '`+reasonNotAsked+`', closed_at = {now}, replaces = NULL, `+clearLease+`
			WHERE id IN {each $1} AND lease_token IN {each $2} AND state = '`+stateOpening+`' AND called_at IS NULL`, ids, tokens)
	})
	return err
}

// complete makes an intent a session. It works with the lease, and without it
// as long as the row has no session: what the node opened must be in a row,
// however late the news. It returns false if the row has a session, or another
// row has this one. A session that is not what was asked for serves nobody.
func (s *store) complete(ctx context.Context, l lease, c ChainSession, serves bool, closeAfter time.Duration) (bool, error) {
	state, reason := stateOpen, ""
	if !serves {
		state, reason = stateEnding, reasonMismatch
	}
	n, err := s.count(ctx, "sessions.complete", `UPDATE automation_sessions
		SET state = $8, session_id = $3, provider = $4, opened_at = {unix $5}, ends_at = {unix $6}, next_at = {unix $7},
			unknown_at = NULL, closed_at = NULL, attempts = 0, reason = $9, last_error = '', `+clearLease+`
		WHERE id = $1 AND session_id IS NULL AND state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`', '`+stateFailed+`')
			AND (lease_token = $2 OR state <> '`+stateOpening+`')`,
		l.id, l.token, c.ID, c.Provider, c.OpenedAt.Unix(), c.EndsAt.Unix(), c.EndsAt.Add(closeAfter).Unix(), state, reason)
	if sqldb.IsConstraint(err) {
		return false, nil // session_id is unique: another row has it
	}
	return n > 0, err
}

// insertOrphan writes a row for a session whose intent has got another one
// meanwhile. It does nothing where a row has the session.
func (s *store) insertOrphan(ctx context.Context, id string, of lease, c ChainSession, closeAfter time.Duration) error {
	return s.exec(ctx, "sessions.insert_orphan", `INSERT INTO automation_sessions
			(id, session_id, model_id, owner_id, user_id, charged_at, duration, purpose, state, provider, created_at, called_at, opened_at, ends_at, next_at)
		SELECT $1, $2, model_id, owner_id, user_id, charged_at, duration, purpose, '`+stateOpen+`', $3, {now}, called_at, {unix $4}, {unix $5}, {unix $6}
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
