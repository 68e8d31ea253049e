package report

import (
	"context"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sessionsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// The deployment plan's criteria.
const (
	week         = 7 * 24 * time.Hour
	fullFor      = 72 * time.Hour
	maxErrorRate = .01
	minAdoption  = .3
	maxSlowShare = .05 // that may take longer than a 95th percentile
	minRequests  = 20  // a rate of fewer requests stays open
)

// Verdict is the answer to whether a criterion is met.
type Verdict string

// The verdicts.
const (
	VerdictMet    Verdict = "met"
	VerdictNotMet Verdict = "not_met"
	VerdictOpen   Verdict = "open" // too early to tell, not measured, or not stated
)

// Criterion is one criterion of success.
type Criterion struct {
	Name    string  `json:"name"` // full_rollout, error_rate, adoption, latency, database, open_bugs
	Verdict Verdict `json:"verdict"`
	Wanted  string  `json:"wanted"`
	// Measured has the figures. While the verdict is open it says what is missing
	// instead, so that nobody reads a figure as a result.
	Measured string `json:"measured"`
}

func verdict(met bool) Verdict {
	if met {
		return VerdictMet
	}
	return VerdictNotMet
}

// formatDuration writes a duration in the unit that suits its length. It rounds down
// to whole minutes, so that a duration a second below a limit reads as below it.
func formatDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.4g ms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.4g s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	text := fmt.Sprintf("%d hours", d/time.Hour)
	if minutes := d % time.Hour / time.Minute; minutes > 0 {
		text += fmt.Sprintf(" %d min", minutes)
	}
	return text
}

// criteria measures all criteria.
func (m *Maker) criteria(ctx context.Context, r measured, o Options) ([]Criterion, error) {
	adoption, err := m.adoption(ctx, r, o)
	n := r.Evidence.Exposed
	return []Criterion{r.fullRollout(), errorRate(n), adoption,
		timing("latency", r.plan.LatencyP95, n.Slow, n.Outcomes, n.Latency()),
		timing("database", r.plan.DatabaseP95, n.DatabaseSlow, n.Outcomes, n.DatabaseTime()),
		openBugs(o.OpenBugs)}, err
}

func (r measured) fullRollout() Criterion {
	c := Criterion{Name: "full_rollout", Verdict: VerdictOpen, Wanted: "100 % for " + formatDuration(fullFor)}
	switch {
	case r.fullTime >= fullFor:
		c.Verdict, c.Measured = VerdictMet, fmt.Sprintf("100 %% for %s, %s", formatDuration(r.fullTime), r.State)
	case r.isOff:
		c.Verdict, c.Measured = VerdictNotMet, "the feature was rolled back"
	case r.State == rollout.StateCompleted:
		c.Verdict, c.Measured = VerdictNotMet, fmt.Sprintf("100 %% for %s, %s", formatDuration(r.fullTime), r.State)
	case r.State == rollout.StatePending:
		c.Measured = "the rollout has not begun"
	case r.isFull:
		c.Measured = "everybody has it, not yet for long enough"
	default:
		c.Measured = "not everybody has it yet"
	}
	return c
}

// tooFew is Measured for a rate that has fewer than minRequests.
const tooFew = "too few requests to tell"

func errorRate(n rollout.Counts) Criterion {
	c := Criterion{Name: "error_rate", Verdict: VerdictOpen, Wanted: fmt.Sprintf("below %.4g %%", 100*maxErrorRate), Measured: tooFew}
	if n.Outcomes >= minRequests {
		c.Verdict, c.Measured = verdict(n.ErrorRate() < maxErrorRate), fmt.Sprintf("%.2f %%, %d of %d", 100*n.ErrorRate(), n.Failures, n.Outcomes)
	}
	return c
}

// timing compares a 95th percentile with the plan's limit.
func timing(name string, limit time.Duration, slow, outcomes int64, mean time.Duration) Criterion {
	c := Criterion{Name: name, Verdict: VerdictOpen, Wanted: fmt.Sprintf("at most %s in %.4g %% of the requests", formatDuration(limit), 100*(1-maxSlowShare)), Measured: tooFew}
	switch {
	case limit == 0:
		c.Wanted, c.Measured = "the plan has no limit", "not measured"
	case outcomes >= minRequests:
		share := float64(slow) / float64(outcomes)
		c.Verdict = verdict(share <= maxSlowShare)
		c.Measured = fmt.Sprintf("longer in %.2f %% of %d requests, %s on average", 100*share, outcomes, formatDuration(mean))
	}
	return c
}

func openBugs(n *int) Criterion {
	c := Criterion{Name: "open_bugs", Verdict: VerdictOpen, Wanted: "no open P0 or P1 bug", Measured: "not stated"}
	if n != nil {
		c.Verdict, c.Measured = verdict(*n == 0), fmt.Sprintf("%d, as stated", *n)
	}
	return c
}

// adoption measures how many of the users used the feature or opted in within
// the first week.
func (m *Maker) adoption(ctx context.Context, r measured, o Options) (Criterion, error) {
	c := Criterion{Name: "adoption", Verdict: VerdictOpen, Wanted: fmt.Sprintf("at least %.4g %% within %s", 100*minAdoption, formatDuration(week))}
	switch {
	case r.BeganAt.IsZero():
		c.Measured = "the rollout has not begun"
		return c, nil
	case o.Users == nil:
		c.Measured = "how many users there are was not stated"
		return c, nil
	}
	users, err := o.Users(ctx)
	if err != nil {
		return c, fmt.Errorf("users: %w", err)
	}
	end := r.BeganAt.Add(week)
	to := end
	if r.At.Before(end) {
		to = r.At
	}
	adopters, err := m.adopters(ctx, r.BeganAt, to)
	if err != nil {
		return c, err
	}
	share := 0.0
	if users > 0 {
		share = float64(adopters) / float64(users)
	}
	figures := fmt.Sprintf("%.1f %%, %d of %d users", 100*share, adopters, users)
	switch {
	case share >= minAdoption:
		c.Verdict, c.Measured = VerdictMet, figures
	case r.At.Before(end):
		c.Measured = "the first week is not over"
	case r.At.Sub(r.BeganAt) > o.Retention:
		c.Measured = "sessions of the first week are past their retention"
	default:
		c.Verdict, c.Measured = VerdictNotMet, figures
	}
	return c, nil
}

// usedBetween selects the users who had a session between the times $1 and $2: one
// that was created then (an index-only scan), or one that was created before and
// used then. No session lasts longer than two days. DISTINCT lets the planner hash
// each half; it would sort all rows for the UNION alone.
const usedBetween = `SELECT DISTINCT user_id AS id FROM automation_sessions WHERE created_at >= {unix $1} AND created_at < {unix $2} AND ` + hasUser + `
	UNION SELECT DISTINCT user_id FROM automation_sessions WHERE created_at >= {unix $1 - 172800} AND created_at < {unix $1} AND last_used_at >= {unix $1} AND ` + hasUser

// hasUser is the condition that a session is a user's and its open did not fail.
const hasUser = `user_id <> '' AND state NOT IN ('` + sessionsql.StateFailed + `', '` + sessionsql.StateLost + `')`

const adoptersQuery = `SELECT count(*) FROM (SELECT {text user_id} AS id FROM user_automation_settings WHERE is_enabled AND deleted_at IS NULL
		AND (created_at >= {unix $1} AND created_at < {unix $2} OR updated_at >= {unix $1} AND updated_at < {unix $2})
	UNION ` + usedBetween + `) AS adopters`

// adopters counts the users who used the feature or have opted in between two
// times.
func (m *Maker) adopters(ctx context.Context, from, to time.Time) (int, error) {
	return sqldb.Read(ctx, m.db, "report.adopters", func(tx *sqldb.Tx) (n int, err error) {
		return n, tx.Get(&n, adoptersQuery, seconds(from), seconds(to))
	})
}

// seconds returns a time for {unix}, in whole milliseconds, as SQLite stores times.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// activity returns how requests ended between two times, in whole periods.
func (m *Maker) activity(ctx context.Context, from, to time.Time) ([]replica.Activity, error) {
	return sqldb.Read(ctx, m.db, "report.activity", func(tx *sqldb.Tx) ([]replica.Activity, error) {
		list := []replica.Activity{}
		return list, tx.Select(&list, `SELECT kind, cause, max(evidence) AS evidence, CAST(sum(requests) AS bigint) AS requests, CAST(sum(slow) AS bigint) AS slow,
				CAST(sum(db_slow) AS bigint) AS db_slow, CAST(sum(latency_us) AS bigint) AS latency_us, CAST(sum(db_us) AS bigint) AS db_us
			FROM automation_activity WHERE period >= {unix $1} AND period <= {unix $2} GROUP BY kind, cause ORDER BY kind, sum(requests) DESC, cause`,
			seconds(from.Truncate(replica.Period)), seconds(to))
	})
}

// counts sums activity up as a rollout counts requests.
func counts(list []replica.Activity) (n rollout.Counts) {
	for _, a := range list {
		switch a.Evidence {
		case "none":
			n.Ignored += a.Requests
			continue
		case "shared":
			n.SharedFailures += a.Requests
			continue
		case "compared":
			n.ProviderFailures += a.Requests
			n.Failures += a.Requests
		case "failure":
			n.Failures += a.Requests
		}
		n.Outcomes += a.Requests
		n.Slow += a.Slow
		n.DatabaseSlow += a.DatabaseSlow
		n.LatencyUS += a.LatencyUS
		n.DatabaseUS += a.DatabaseUS
	}
	return n
}
