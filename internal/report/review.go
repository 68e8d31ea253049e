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

// Review is what happened in a span of time.
type Review struct {
	From     time.Time          `json:"from"`
	To       time.Time          `json:"to"`
	Opens    []Opens            `json:"opens"`    // by purpose
	Activity []replica.Activity `json:"activity"` // how requests ended, by kind and cause
	Users    Users              `json:"users"`
	Unused   []Unused           `json:"unused"` // what was paid for nothing
	Feedback Feedback           `json:"feedback"`
}

// Opens counts the sessions that were asked for.
type Opens struct {
	Purpose string `json:"purpose"` // request, renewal, prewarm, replacement
	Opened  int64  `json:"opened"`
	Failed  int64  `json:"failed"`  // the node opened nothing
	Dropped int64  `json:"dropped"` // the node was not asked: nobody waited any more
	Unknown int64  `json:"unknown"` // under way, or nobody can say yet
}

// Users counts those who used the feature, and those whose settings say whether
// they want it and were written in the span.
type Users struct {
	Active   int64 `json:"active"`
	OptedIn  int64 `json:"opted_in"`
	OptedOut int64 `json:"opted_out"`
}

// Unused counts sessions that were paid without need.
type Unused struct {
	What     string `json:"what"`
	Sessions int64  `json:"sessions"`
	Seconds  int64  `json:"seconds"` // asked for; 0 where that is not known
}

// Feedback sums up what users said.
type Feedback struct {
	Count  int64   `json:"count"`
	Open   int64   `json:"open"`
	Rated  int64   `json:"rated"`
	Rating float64 `json:"rating"` // the mean, 1 to 5; 0 where there are none
	// Newest has the newest open entries, at most five.
	Newest []feedback.Entry `json:"newest"`
}

// session is how many sessions fared alike.
type session struct {
	Purpose string `db:"purpose"`
	State   string `db:"state"`
	Reason  string `db:"reason"`
	Count   int64  `db:"n"`
	Seconds int64  `db:"seconds"`
}

const (
	// Index-only: the table's own rows are several times as long.
	sessionsQuery = `SELECT purpose, state, reason, count(*) AS n, CAST(sum(duration) AS bigint) AS seconds
		FROM automation_sessions WHERE created_at >= {unix $1} AND created_at < {unix $2} GROUP BY 1, 2, 3`
	activeQuery = `SELECT count(*) FROM (` + usedBetween + `) AS used`
	chosenQuery = `SELECT count(*) FILTER (WHERE is_enabled) AS opted_in, count(*) FILTER (WHERE NOT is_enabled) AS opted_out
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
	var sessions []session
	g, both := errgroup.WithContext(ctx) // the two that read as much as there were sessions
	g.Go(func() (err error) {
		sessions, err = m.sessions(both, from, to)
		return err
	})
	g.Go(func() (err error) {
		v.Users.Active, err = sqldb.Read(both, m.db, "report.active_users", func(tx *sqldb.Tx) (n int64, err error) {
			return n, tx.Get(&n, activeQuery, seconds(from), seconds(to))
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return v, err
	}
	_, err = sqldb.Read(ctx, m.db, "report.review", func(tx *sqldb.Tx) (struct{}, error) {
		done := struct{}{}
		var unexplained int64
		if err := tx.Get(&unexplained, `SELECT coalesce(sum(unexplained), 0) FROM automation_wallet`); err != nil {
			return done, err
		}
		v.Opens, v.Unused = opens(sessions), unused(sessions, unexplained)
		var chosen struct {
			OptedIn  int64 `db:"opted_in"`
			OptedOut int64 `db:"opted_out"`
		}
		if err := tx.Get(&chosen, chosenQuery, seconds(from), seconds(to)); err != nil {
			return done, err
		}
		v.Users.OptedIn, v.Users.OptedOut = chosen.OptedIn, chosen.OptedOut
		var said struct {
			Count  int64   `db:"n"`
			Open   int64   `db:"open"`
			Rated  int64   `db:"rated"`
			Rating float64 `db:"rating"`
		}
		err := tx.Get(&said, feedbackQuery, seconds(from), seconds(to))
		v.Feedback = Feedback{Count: said.Count, Open: said.Open, Rated: said.Rated, Rating: said.Rating}
		return done, err
	})
	if err != nil {
		return v, err
	}
	newest, err := m.feedback.List(ctx, feedback.Filter{Open: true, Limit: 5})
	v.Feedback.Newest = slices.DeleteFunc(newest, func(e feedback.Entry) bool { return e.CreatedAt.Before(from) })
	return v, err
}

// maxSummed is the longest span whose sessions one statement sums up, so that
// none comes near its deadline.
const maxSummed = week

// sessions returns how the sessions fared that were asked for between two times,
// sorted by purpose.
func (m *Maker) sessions(ctx context.Context, from, to time.Time) ([]session, error) {
	sums := map[session]session{}
	for ; from.Before(to); from = from.Add(maxSummed) {
		until := from.Add(maxSummed)
		if until.After(to) {
			until = to
		}
		list, err := sqldb.Read(ctx, m.db, "report.sessions", func(tx *sqldb.Tx) (list []session, err error) {
			return list, tx.Select(&list, sessionsQuery, seconds(from), seconds(until))
		})
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			alike := session{Purpose: s.Purpose, State: s.State, Reason: s.Reason}
			s.Count += sums[alike].Count
			s.Seconds += sums[alike].Seconds
			sums[alike] = s
		}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b session) int { return cmp.Compare(a.Purpose, b.Purpose) }), nil
}

// opens sums sessions up by purpose.
func opens(list []session) []Opens {
	sums := []Opens{}
	for _, s := range list {
		if len(sums) == 0 || sums[len(sums)-1].Purpose != s.Purpose { // they come sorted
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

func isPaid(s session) bool {
	return s.State == sessionsql.StateOpen || s.State == sessionsql.StateEnding || s.State == sessionsql.StateClosed
}

// unused sums up the sessions that were paid without need. Whether one was ever
// used is written down when its end has come.
func unused(list []session, unexplained int64) []Unused {
	never, broken, mismatch := Unused{What: "opened and never used"}, Unused{What: "broken before their end"}, Unused{What: "opened otherwise than asked for"}
	add := func(u *Unused, s session) { u.Sessions += s.Count; u.Seconds += s.Seconds }
	for _, s := range list {
		switch {
		case !isPaid(s):
		case s.Reason == sessionsql.ReasonMismatch:
			add(&mismatch, s)
		case s.Reason == sessionsql.ReasonExpired:
			add(&broken, s)
		case s.Reason == sessionsql.ReasonUnused:
			add(&never, s)
		}
	}
	return []Unused{never, broken, mismatch, {What: "in the wallet and explained by no row, now", Sessions: unexplained}}
}

// failures returns the activity that ended with an error of somebody's: all but
// what was served and what left.
func failures(list []replica.Activity) []replica.Activity {
	var bad []replica.Activity
	for _, a := range list {
		if cause := outcome.Cause(a.Cause); cause != outcome.None && cause != outcome.ClientLeft {
			bad = append(bad, a)
		}
	}
	return bad
}

// requests counts them.
func requests(list []replica.Activity) (n int64) {
	for _, a := range list {
		n += a.Requests
	}
	return n
}
