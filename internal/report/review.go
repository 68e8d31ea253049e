package report

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/sessionsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Review is what happened in a period.
type Review struct {
	From     time.Time          `json:"from"`
	To       time.Time          `json:"to"`
	Opens    []Opens            `json:"opens"`    // by purpose
	Activity []replica.Activity `json:"activity"` // how requests ended, by kind and cause
	Users    Users              `json:"users"`
	Unused   []Unused           `json:"unused"` // what was paid for nothing
	Feedback Feedback           `json:"feedback"`
}

// Opens counts the requests for a new session.
type Opens struct {
	Purpose string `json:"purpose"` // request, renewal, prewarm, replacement
	Opened  int64  `json:"opened"`
	Failed  int64  `json:"failed"`  // the node opened nothing
	Dropped int64  `json:"dropped"` // given up before the node was asked
	Unknown int64  `json:"unknown"` // under way, or of unknown outcome
}

// Users counts the users who used the feature in the period, and those who wrote
// their settings in it, by whether these switch the feature on.
type Users struct {
	Active   int64 `json:"active"`
	OptedIn  int64 `json:"opted_in"`
	OptedOut int64 `json:"opted_out"`
}

// Unused counts sessions that were paid for nothing, for one reason.
type Unused struct {
	What     string `json:"what"` // the reason, after "sessions that were"
	Sessions int64  `json:"sessions"`
	Seconds  int64  `json:"seconds"` // the sum of the requested durations; 0 where it is unknown
}

// Feedback sums up the entries of a period.
type Feedback struct {
	Count  int64   `json:"count"`
	Open   int64   `json:"open"`
	Rated  int64   `json:"rated"`
	Rating float64 `json:"rating"` // the mean, 1 to 5; 0 without ratings
	// Newest has at most five open entries, the newest first.
	Newest []feedback.Entry `json:"newest"`
}

// sessionCount counts the sessions of one purpose, state and reason.
type sessionCount struct {
	Purpose string `db:"purpose"`
	State   string `db:"state"`
	Reason  string `db:"reason"`
	Count   int64  `db:"n"`
	Seconds int64  `db:"seconds"`
}

const (
	// An index has all of these columns; the table's rows are several times as long.
	sessionsQuery = `SELECT purpose, state, reason, count(*) AS n, CAST(sum(duration) AS bigint) AS seconds
		FROM automation_sessions WHERE created_at >= {unix $1} AND created_at < {unix $2} GROUP BY 1, 2, 3`
	activeQuery = `SELECT count(*) FROM (` + usedBetween + `) AS used`
	optInQuery  = `SELECT count(*) FILTER (WHERE is_enabled) AS opted_in, count(*) FILTER (WHERE NOT is_enabled) AS opted_out
		FROM user_automation_settings WHERE updated_at >= {unix $1} AND updated_at < {unix $2} AND deleted_at IS NULL`
	feedbackQuery = `SELECT count(*) AS n, count(*) FILTER (WHERE done_at IS NULL) AS open, count(rating) AS rated,
			CAST(coalesce(avg(rating), 0) AS double precision) AS rating
		FROM automation_feedback WHERE created_at >= {unix $1} AND created_at < {unix $2}`
)

// review reads what happened between two times.
func (m *Maker) review(ctx context.Context, from, to time.Time) (Review, error) {
	v := Review{From: from, To: to}
	var err error
	if v.Activity, err = m.activity(ctx, from, to); err != nil {
		return v, err
	}
	// The time of these two grows with the number of sessions, so they run in parallel.
	var sessions []sessionCount
	g, groupCtx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		sessions, err = m.sessions(groupCtx, from, to)
		return err
	})
	g.Go(func() (err error) {
		v.Users.Active, err = sqldb.Read(groupCtx, m.db, "report.active_users", func(tx *sqldb.Tx) (n int64, err error) {
			return n, tx.Get(&n, activeQuery, seconds(from), seconds(to))
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return v, err
	}
	_, err = sqldb.Read(ctx, m.db, "report.review", func(tx *sqldb.Tx) (any, error) {
		var unexplained int64
		if err := tx.Get(&unexplained, `SELECT coalesce(sum(unexplained), 0) FROM automation_wallet`); err != nil {
			return nil, err
		}
		v.Opens, v.Unused = opens(sessions), unused(sessions, unexplained)
		var optIns struct {
			OptedIn  int64 `db:"opted_in"`
			OptedOut int64 `db:"opted_out"`
		}
		if err := tx.Get(&optIns, optInQuery, seconds(from), seconds(to)); err != nil {
			return nil, err
		}
		v.Users.OptedIn, v.Users.OptedOut = optIns.OptedIn, optIns.OptedOut
		var entries struct {
			Count  int64   `db:"n"`
			Open   int64   `db:"open"`
			Rated  int64   `db:"rated"`
			Rating float64 `db:"rating"`
		}
		err := tx.Get(&entries, feedbackQuery, seconds(from), seconds(to))
		v.Feedback = Feedback{Count: entries.Count, Open: entries.Open, Rated: entries.Rated, Rating: entries.Rating}
		return nil, err
	})
	if err != nil {
		return v, err
	}
	newest, err := m.feedback.List(ctx, feedback.Filter{Open: true, Limit: 5})
	v.Feedback.Newest = slices.DeleteFunc(newest, func(e feedback.Entry) bool { return e.CreatedAt.Before(from) })
	return v, err
}

// maxSummed is the longest period whose sessions one statement sums up, so that no
// statement comes near its deadline.
const maxSummed = week

// sessions counts the sessions that were created between two times, sorted by
// purpose.
func (m *Maker) sessions(ctx context.Context, from, to time.Time) ([]sessionCount, error) {
	sums := map[sessionCount]sessionCount{} // the key has neither count nor seconds
	for ; from.Before(to); from = from.Add(maxSummed) {
		until := from.Add(maxSummed)
		if until.After(to) {
			until = to
		}
		list, err := sqldb.Read(ctx, m.db, "report.sessions", func(tx *sqldb.Tx) (list []sessionCount, err error) {
			return list, tx.Select(&list, sessionsQuery, seconds(from), seconds(until))
		})
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			key := sessionCount{Purpose: s.Purpose, State: s.State, Reason: s.Reason}
			s.Count += sums[key].Count
			s.Seconds += sums[key].Seconds
			sums[key] = s
		}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b sessionCount) int { return cmp.Compare(a.Purpose, b.Purpose) }), nil
}

// opens sums up a list that is sorted by purpose.
func opens(list []sessionCount) []Opens {
	sums := []Opens{}
	for _, s := range list {
		if len(sums) == 0 || sums[len(sums)-1].Purpose != s.Purpose {
			sums = append(sums, Opens{Purpose: s.Purpose})
		}
		o := &sums[len(sums)-1]
		switch {
		case isPaid(s):
			o.Opened += s.Count
		case s.State == sessionsql.StateFailed && s.Reason == sessionsql.ReasonRefused, s.State == sessionsql.StateLost:
			o.Failed += s.Count
		case s.State == sessionsql.StateFailed:
			o.Dropped += s.Count
		default:
			o.Unknown += s.Count
		}
	}
	return sums
}

func isPaid(s sessionCount) bool {
	return s.State == sessionsql.StateOpen || s.State == sessionsql.StateEnding || s.State == sessionsql.StateClosed
}

// unused sums up the sessions that were paid for nothing. A session that nobody
// used gets this reason when it ends. Unexplained is the number of sessions in the
// wallet that have no row.
func unused(list []sessionCount, unexplained int64) []Unused {
	never := Unused{What: "opened and never used"}
	expired := Unused{What: "ended early by the chain or a provider"}
	mismatch := Unused{What: "opened differently than requested"}
	add := func(u *Unused, s sessionCount) { u.Sessions += s.Count; u.Seconds += s.Seconds }
	for _, s := range list {
		switch {
		case !isPaid(s):
		case s.Reason == sessionsql.ReasonMismatch:
			add(&mismatch, s)
		case s.Reason == sessionsql.ReasonExpired:
			add(&expired, s)
		case s.Reason == sessionsql.ReasonUnused:
			add(&never, s)
		}
	}
	return []Unused{never, expired, mismatch, {What: "in the wallet now, but not in the database", Sessions: unexplained}}
}

// failures returns the activity of requests that failed: all but those that were
// served and those whose client left.
func failures(list []replica.Activity) []replica.Activity {
	var bad []replica.Activity
	for _, a := range list {
		if cause := outcome.Cause(a.Cause); cause != outcome.None && cause != outcome.ClientLeft {
			bad = append(bad, a)
		}
	}
	return bad
}

// requests returns the number of requests in a list.
func requests(list []replica.Activity) (n int64) {
	for _, a := range list {
		n += a.Requests
	}
	return n
}
