package session

import (
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// limits are the limits that a reservation obeys. Zero means no limit, except for the
// replacements.
type limits struct{ perUser, perHour, perDay, total, replacements, allReplacements int }

func (m *Manager) limits() limits {
	return limits{m.opts.MaxPerUser, m.opts.OpensPerHour, m.opts.OpensPerDay, m.opts.MaxOpen,
		m.opts.MaxReplacementsPerHour, m.opts.MaxReplacementsPerHourTotal}
}

// quota returns how many sessions the user may open now. If it is none, refused is the
// limit that forbids it for longest. inPool is how many sessions the pool has, with its
// opens under way.
func (s *store) quota(tx *sqldb.Tx, r reserveRequest, l limits, inPool int) (n int, refused *BudgetError, err error) {
	n = math.MaxInt
	apply := func(name string, maximum, allowed int, retrySeconds float64) {
		n = min(n, max(allowed, 0))
		retry := max(time.Second, time.Duration(math.Ceil(retrySeconds))*time.Second)
		if allowed <= 0 && (refused == nil || retry > refused.RetryAfter) {
			refused = &BudgetError{Limit: name, Max: maximum, RetryAfter: retry}
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
		apply(LimitTotal, l.total, l.total-c.N, c.Retry)
	}
	if r.user == "" {
		return n, refused, nil
	}
	var window time.Duration
	switch {
	case r.purpose == purposeReplacement: // it is not charged and has other limits
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
		apply(LimitSessions, l.perUser, placesFor(r, l.perUser-c.Placed, inPool), soon.Seconds())
		apply(LimitSessions, maxOpenPerUser(l.perUser), placesFor(r, maxOpenPerUser(l.perUser)-c.Open, inPool), c.Free)
	}
	if r.purpose == purposeReplacement {
		return n, refused, s.replacementQuota(tx, r, l, apply)
	}
	if l.perHour > 0 {
		apply(LimitHour, l.perHour, l.perHour-c.Hour, c.HourFree)
	}
	if l.perDay > 0 {
		apply(LimitDay, l.perDay, l.perDay-c.Day, c.DayFree)
	}
	return n, refused, nil
}

// maxOpenPerUser returns how many open sessions a user may have in all. Idle sessions of
// other models do not prevent a new one. But they are kept until their end, because an
// early close would lock their stake, so their number must be limited as well.
func maxOpenPerUser(perUser int) int { return 2 * perUser }

// soon is when to try again if a session may become idle at any moment.
const soon = 5 * time.Second

const day = 24 * time.Hour

// userCounts has the counts that a user's limits apply to: their open sessions and opens
// under way, and the opens that were charged to them lately.
type userCounts struct {
	Open     int     `db:"n"`
	InUse    int     `db:"in_use"`    // of these, sessions in use or being opened
	Placed   int     `db:"placed"`    // those in use, and the idle sessions of the requested model
	Free     float64 `db:"free"`      // seconds until the first session does not count any more
	Hour     int     `db:"hour"`      // opens charged within the last hour
	HourFree float64 `db:"hour_free"` // seconds until the hour's limit allows one more, if it is used up
	Day      int     `db:"day"`       // opens charged within the last day
	DayFree  float64 `db:"day_free"`  // seconds until the day's limit allows one more, if it is used up
}

// countUser counts a user's sessions and opens in one statement. It leaves out the row
// replaced, retired sessions and sessions within margin of their end, because no request
// gets them any more, and a successor until its predecessor has ended. Opens are counted
// as far back as window. A limit of n opens allows another one when the oldest of the n
// newest opens leaves the hour or the day.
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

// placesFor returns how many of a user's free places a pool may take. A request may take
// the last free place only for the first session of its model.
func placesFor(r reserveRequest, free, inPool int) int {
	if r.purpose != purposeRequest {
		return free
	}
	if inPool > 0 {
		return free - 1
	}
	return max(free-1, min(free, 1))
}

// replacementQuota applies the limits on sessions that were opened in the place of broken
// ones within the last hour: for the user and model, and for all together.
func (s *store) replacementQuota(tx *sqldb.Tx, r reserveRequest, l limits, apply func(name string, maximum, allowed int, retrySeconds float64)) error {
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
	apply(LimitReplacements, l.replacements, l.replacements-c.Mine, c.MyRetry)
	apply(LimitReplacementsTotal, l.allReplacements, l.allReplacements-c.All, c.Retry)
	return nil
}
