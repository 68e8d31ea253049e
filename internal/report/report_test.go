package report_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// harness is a database whose past the test writes.
type harness struct {
	t        *testing.T
	pool     *sqlx.DB
	words    *sqldb.DB
	rollouts *rollout.Store
	maker    *report.Maker
	options  report.Options
}

// onBoth runs a test on both databases.
func onBoth(t *testing.T, test func(t *testing.T, h *harness)) {
	t.Helper()
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		h := &harness{t: t, pool: pool, words: sqldb.New(pool, sqldb.Options{}), rollouts: rollout.NewStore(pool)}
		h.maker, h.options = report.New(pool, h.rollouts, sqldb.Options{}), report.Options{Flag: "automation"}
		h.unlockAudit()
		test(t, h)
	})
}

func (h *harness) sql(statements ...string) {
	h.t.Helper()
	for _, s := range statements {
		if _, err := h.pool.ExecContext(h.t.Context(), h.words.Expand(s)); err != nil {
			h.t.Fatalf("%s: %v", s, err)
		}
	}
}

// unlockAudit lets the test change the times of rows that nobody may change.
func (h *harness) unlockAudit() {
	h.t.Helper()
	if h.pool.DriverName() != "sqlite" {
		h.sql(`DROP TRIGGER automation_append_only ON feature_flag_events`, `DROP TRIGGER automation_append_only ON automation_rollout_events`)
		return
	}
	var names []string
	if err := h.pool.SelectContext(h.t.Context(), &names, `SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ('feature_flag_events', 'automation_rollout_events')`); err != nil {
		h.t.Fatal(err)
	}
	for _, name := range names {
		h.sql(`DROP TRIGGER ` + name)
	}
}

// pass makes everything that is stored older.
func (h *harness) pass(d time.Duration) {
	h.t.Helper()
	for _, column := range []string{"feature_flag_events.changed_at", "automation_rollout_events.at", "automation_rollouts.began_at", "automation_rollouts.entered_at",
		"automation_sessions.created_at", "automation_sessions.last_used_at", "user_automation_settings.created_at", "user_automation_settings.updated_at",
		"automation_activity.period", "automation_feedback.created_at"} {
		table, name, _ := strings.Cut(column, ".")
		earlier := fmt.Sprintf(`%s - interval '%d seconds'`, name, int(d.Seconds()))
		if h.pool.DriverName() == "sqlite" {
			earlier = fmt.Sprintf(`strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s, '-%d seconds')`, name, int(d.Seconds()))
		}
		h.sql(`UPDATE ` + table + ` SET ` + name + ` = ` + earlier)
	}
}

// requests adds requests of the last second.
func (h *harness) requests(cause string, n, slow int) {
	h.t.Helper()
	evidence := map[string]string{"none": "success", "session": "failure", "opening": "failure", "provider": "compared", "node": "shared", "client": "none"}[cause]
	h.sql(fmt.Sprintf(`INSERT INTO automation_activity (period, kind, cause, evidence, requests, slow, db_slow, latency_us, db_us) VALUES ({in -1}, 'chat', '%s', '%s', %d, %d, 0, %d, 1000)`,
		cause, evidence, n, slow, 2000*n))
}

// use gives users sessions of this moment.
func (h *harness) use(users int) {
	h.t.Helper()
	for i := range users {
		h.sql(fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, duration, state, created_at, ends_at, next_at, last_used_at)
			VALUES ('%[1]d', '0x%[1]d', 'm', 'u%[1]d', 'u%[1]d', 3600, 'open', {now}, {in 3600}, {now}, {now})`, i))
	}
}

func (h *harness) users(n int) {
	h.options.Users = func(context.Context) (int, error) { return n, nil }
}

var (
	figure     = regexp.MustCompile(`[0-9]`)
	sinceHours = regexp.MustCompile(`(\d+h)\d+m\d+s`)
)

// report makes one, and fails where a figure stands next to an open verdict.
func (h *harness) report() report.Report {
	h.t.Helper()
	r, err := h.maker.Make(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range r.Criteria {
		if c.Measured == "" || c.Verdict == report.VerdictOpen && figure.MatchString(c.Measured) {
			h.t.Errorf("%s is %s and measured as %q", c.Name, c.Verdict, c.Measured)
		}
	}
	return r
}

// expect compares the verdicts in the order of the criteria.
func (h *harness) expect(r report.Report, want ...string) {
	h.t.Helper()
	got := []string{string(r.State), string(r.Verdict)}
	for _, c := range r.Criteria {
		measured := sinceHours.ReplaceAllString(c.Measured, "${1}0m0s") // the test itself takes time
		got = append(got, fmt.Sprintf("%s %s: %s", c.Name, c.Verdict, measured))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestMake_MeasuresARolloutByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		r := h.report()
		h.expect(r, "pending", "open", "full_rollout open: the rollout has not begun", "error_rate open: too few requests to tell",
			"adoption open: the rollout has not begun", "latency open: too few requests to tell", "database open: too few requests to tell", "open_bugs open: not stated")
		if !r.ByHand || len(r.Steps) != 0 {
			t.Errorf("%+v", r)
		}

		h.pass(time.Hour)
		h.sql(`UPDATE feature_flags SET enabled_user_ids = '[1, 2, 3]' WHERE feature_name = 'automation'`)
		h.users(100)
		h.use(20) // with opt-in by default nobody has to store anything
		h.sql(`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at) VALUES
			('u1', TRUE, 3600, {now}, {now}), ('a', TRUE, 3600, {now}, {now}), ('b', FALSE, 3600, {now}, {now})`)
		h.requests("none", 30, 0)
		h.expect(h.report(), "running", "open", "full_rollout open: not everybody has it yet", "error_rate met: 0.00 %, 0 of 30",
			"adoption open: the first week is not over", "latency met: more in 0.00 % of 30, 2 ms on average", "database met: more in 0.00 % of 30, 0.03333 ms on average", "open_bugs open: not stated")

		for _, percentage := range []string{"10", "50", "100"} {
			h.pass(24 * time.Hour)
			h.sql(`UPDATE feature_flags SET rollout_percentage = ` + percentage + ` WHERE feature_name = 'automation'`)
		}
		h.expect(h.report(), "running", "open", "full_rollout open: everybody has it, not yet for long enough", "error_rate open: too few requests to tell",
			"adoption open: the first week is not over", "latency open: too few requests to tell", "database open: too few requests to tell", "open_bugs open: not stated")

		h.pass(24 * time.Hour)
		h.requests("none", 994, 40)
		h.requests("session", 5, 0)
		h.requests("provider", 1, 0)
		h.requests("node", 500, 0) // both arms suffer: no evidence
		h.requests("client", 90, 0)
		h.pass(48 * time.Hour)
		bugs := 0
		h.options.OpenBugs = &bugs
		h.users(70)
		r = h.report()
		h.expect(r, "completed", "met", "full_rollout met: 100 % for 72 hours, completed", "error_rate met: 0.60 %, 6 of 1000", "adoption met: 30.0 %, 21 of 70 users",
			"latency met: more in 4.00 % of 1000, 2 ms on average", "database met: more in 0.00 % of 1000, 0.003 ms on average", "open_bugs met: 0, as stated")
		var steps []string
		for _, s := range r.Steps {
			steps = append(steps, s.String())
		}
		if want := []string{"0 %, 3 users listed", "10 %, 3 users listed", "50 %, 3 users listed", "100 %, 3 users listed"}; !cmp.Equal(want, steps) {
			t.Errorf("steps %q, want %q", steps, want)
		}
		if r.At.Sub(r.BeganAt).Round(time.Hour) != 144*time.Hour || r.TakenBack != nil {
			t.Errorf("it began at %v, %v before; taken back %+v", r.BeganAt, r.At.Sub(r.BeganAt), r.TakenBack)
		}

		h.users(1000)
		h.pass(24 * time.Hour)
		if c := h.report().Criteria[2]; c.Verdict != report.VerdictNotMet || c.Measured != "2.1 %, 21 of 1000 users" {
			t.Errorf("after the first week %+v", c)
		}
		h.options.Retention = 24 * time.Hour
		if c := h.report().Criteria[2]; c.Verdict != report.VerdictOpen || c.Measured != "sessions of the first week are past their retention" {
			t.Errorf("past the retention %+v", c)
		}
	})
}

func TestMake_ShowsWhatLedToAWayBackByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.sql(`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`)
		h.pass(2 * time.Hour)
		h.sql(`UPDATE feature_flags SET rollout_percentage = 50 WHERE feature_name = 'automation'`)
		h.pass(time.Hour)
		h.requests("none", 70, 0)
		h.requests("opening", 30, 0)
		h.sql(`UPDATE feature_flags SET enabled = FALSE, notice = 'Back at 18:00', updated_by = 'ann' WHERE feature_name = 'automation'`)
		h.pass(time.Hour)
		r := h.report()
		h.expect(r, "rolled_back", "not_met", "full_rollout not_met: the feature was taken back", "error_rate not_met: 30.00 %, 30 of 100",
			"adoption open: how many users there are was not stated", "latency met: more in 0.00 % of 100, 2 ms on average", "database met: more in 0.00 % of 100, 0.02 ms on average", "open_bugs open: not stated")
		b := r.TakenBack
		if b == nil || b.By != "ann" || b.Detail != "Back at 18:00" || b.Stage != "50 %" || b.Evidence.Failures != 30 || b.At.Sub(b.Since).Round(time.Minute) != time.Hour {
			t.Fatalf("taken back %+v", b)
		}
		if len(b.Activity) != 2 || b.Activity[1].Cause != "opening" || b.Activity[1].Requests != 30 {
			t.Errorf("what led to it: %+v", b.Activity)
		}
		began := r.BeganAt
		for _, c := range []struct {
			name, sql string
			continues bool
			takenBack bool
		}{
			{"on again as it was continues it", `UPDATE feature_flags SET enabled = TRUE WHERE feature_name = 'automation'`, true, false},
			{"a lower percentage is a way back", `UPDATE feature_flags SET rollout_percentage = 5 WHERE feature_name = 'automation'`, true, true},
			{"off", `UPDATE feature_flags SET enabled = FALSE WHERE feature_name = 'automation'`, true, true},
			{"on with less begins another", `UPDATE feature_flags SET enabled = TRUE, rollout_percentage = 1 WHERE feature_name = 'automation'`, false, false},
		} {
			h.sql(c.sql)
			if r := h.report(); r.BeganAt.Equal(began) != c.continues || (r.TakenBack != nil) != c.takenBack {
				t.Errorf("%s: began %v (at first %v), taken back %+v", c.name, r.BeganAt, began, r.TakenBack)
			}
		}
	})
}

func TestMake_MeasuresAControllersRollout(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		do := func(action rollout.Action) {
			t.Helper()
			if _, err := h.rollouts.Execute(t.Context(), "automation", rollout.Command{Action: action, Actor: "ann"}); err != nil {
				t.Fatal(err)
			}
		}
		plan := rollout.DefaultPlan()
		plan.Stages[0].Users = flags.NewIDs("7")
		if _, err := h.rollouts.Create(t.Context(), "automation", plan, "ann"); err != nil {
			t.Fatal(err)
		}
		if r := h.report(); r.State != rollout.StatePending || r.ByHand || r.Verdict != report.VerdictOpen {
			t.Errorf("pending: %+v", r)
		}
		do(rollout.ActionStart)
		// On a busy machine the transaction takes seconds from the flag's change to its end.
		h.sql(`UPDATE feature_flag_events SET changed_at = {in -10} WHERE changed_by = 'rollout:automation'`)
		do(rollout.ActionPromote)
		evidence := `INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
			SELECT name, bake, 'other', 'exposed', epoch, stage, 1000, 9, 0, 51, 0, 2000000, 1000000, {now} FROM automation_rollouts`
		h.sql(evidence, `UPDATE automation_rollouts SET watched = 3600`)
		h.pass(time.Hour)
		h.users(10)
		r := h.report()
		h.expect(r, "running", "not_met", "full_rollout open: everybody has it, not yet for long enough", "error_rate met: 0.90 %, 9 of 1000", "adoption open: the first week is not over",
			"latency not_met: more in 5.10 % of 1000, 2 ms on average", "database met: more in 0.00 % of 1000, 1 ms on average", "open_bugs open: not stated")
		if r.ByHand || r.Epoch != 1 || len(r.Steps) != 2 || r.Steps[0].String() != "0 %, 1 users listed" || r.Steps[1].String() != "100 %, 1 users listed" {
			t.Errorf("%+v", r)
		}
		h.sql(`UPDATE automation_rollouts SET watched = 259200, state = 'completed'`)
		bugs := 1
		h.options.OpenBugs = &bugs
		r = h.report()
		if got := fmt.Sprint(r.Criteria[0].Measured, "; ", r.Criteria[5].Measured, r.Criteria[5].Verdict); got != "100 % for 72 hours, completed; 1, as statednot_met" {
			t.Error(got)
		}

		t.Run("switched off by hand after its end it is one by hand", func(t *testing.T) {
			h.sql(`UPDATE feature_flags SET enabled = FALSE, updated_by = 'bob' WHERE feature_name = 'automation'`)
			if r := h.report(); !r.ByHand || r.State != rollout.StateRolledBack || r.TakenBack == nil || r.TakenBack.By != "bob" {
				t.Errorf("%+v", r)
			}
		})
		t.Run("a rollback shows its evidence", func(t *testing.T) {
			do(rollout.ActionRestart)
			h.requests("session", 7, 0)
			do(rollout.ActionSkip)
			h.sql(`UPDATE automation_rollouts SET state = 'rolled_back', seq = seq + 1`, `UPDATE feature_flags SET enabled = FALSE WHERE feature_name = 'automation'`,
				`INSERT INTO automation_rollout_events (rollout, seq, epoch, stage, bake, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at)
				SELECT name, seq, epoch, stage, bake, '10 %', 10, 'rollback', 'running', 'rolled_back', 'rollout', '48 of 80 requests failed in 2m0s', '{"exposed": {"outcomes": 80, "failures": 48}}', {now} FROM automation_rollouts`)
			r := h.report()
			b := r.TakenBack
			if r.ByHand || r.Epoch != 2 || b == nil || b.Detail != "48 of 80 requests failed in 2m0s" || b.Stage != "10 %" || b.Evidence.Failures != 48 {
				t.Fatalf("%+v, taken back %+v", r, b)
			}
			if len(b.Activity) != 1 || b.Activity[0].Requests != 7 || r.Criteria[0].Measured != "the feature was taken back" {
				t.Errorf("%+v, %+v", b.Activity, r.Criteria[0])
			}
		})
	})
}

func TestMake_CountsAnAdoptedFlagAsBegun(t *testing.T) {
	h := &harness{t: t, pool: pgtest.Open(t, pgtest.Database(t))}
	h.words = sqldb.New(h.pool, sqldb.Options{})
	h.sql(`CREATE TABLE feature_flags (feature_name varchar(100) PRIMARY KEY, enabled boolean, enabled_user_ids json)`,
		`INSERT INTO feature_flags VALUES ('automation', true, '[1, 2]')`)
	schematest.Migrate(t, h.pool)
	h.maker, h.options = report.New(h.pool, rollout.NewStore(h.pool), sqldb.Options{}), report.Options{Flag: "automation"}
	if r := h.report(); r.State != rollout.StateRunning || len(r.Steps) != 1 || r.Steps[0].Listed != 2 || r.BeganAt.IsZero() {
		t.Errorf("%+v", r)
	}
}

func TestMake_ReviewsASpan(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.use(3)
		n := 0
		session := func(purpose, state, reason, used string) {
			t.Helper()
			n++
			id := "NULL"
			if state != "failed" && state != "opening" && state != "lost" {
				id = fmt.Sprintf("'0xs%d'", n)
			}
			h.sql(fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, duration, state, reason, purpose, created_at, ends_at, next_at, last_used_at)
				VALUES ('s%d', %s, 'm', 'x', 'x', 1800, '%s', '%s', '%s', {now}, {now}, {now}, %s)`, n, id, state, reason, purpose, used))
		}
		session("request", "failed", "refused", "NULL")
		session("request", "failed", "not_needed", "NULL")
		session("request", "opening", "", "NULL")
		session("request", "closed", "unused", "NULL")
		session("request", "closed", "expired", "{now}")
		session("replacement", "ending", "mismatch", "NULL")
		session("prewarm", "open", "", "NULL")
		h.sql(`UPDATE automation_wallet SET unexplained = 2`,
			`INSERT INTO automation_feedback (key, user_id, rating, message, created_at) VALUES ('a', 'u1', 4, 'good', {now}), ('b', 'u1', 1, 'bad', {now})`,
			`INSERT INTO automation_feedback (key, user_id, message, created_at, done_at) VALUES ('c', 'u1', 'fixed', {now}, {now})`,
			`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at) VALUES ('a', TRUE, 3600, {now}, {now}), ('b', FALSE, 3600, {now}, {now})`)
		h.requests("node", 4, 0)
		h.pass(time.Hour)
		v := h.report().Review
		want := report.Review{
			Opens: []report.Opens{{Purpose: "prewarm", Opened: 1}, {Purpose: "replacement", Opened: 1}, {Purpose: "request", Opened: 5, Failed: 1, Dropped: 1, Unknown: 1}},
			Users: report.Users{Active: 4, OptedIn: 1, OptedOut: 1},
			Unused: []report.Unused{{What: "opened and never used", Sessions: 1, Seconds: 1800}, {What: "broken before their end", Sessions: 1, Seconds: 1800},
				{What: "opened otherwise than asked for", Sessions: 1, Seconds: 1800}, {What: "in the wallet and explained by no row, now", Sessions: 2}},
			Feedback: report.Feedback{Count: 3, Open: 2, Rated: 2, Rating: 2.5},
		}
		if len(v.Activity) != 1 || v.Activity[0].Requests != 4 || len(v.Feedback.Newest) != 2 || v.To.Sub(v.From) != 7*24*time.Hour {
			t.Errorf("%+v", v)
		}
		v.From, v.To, v.Activity, v.Feedback.Newest = time.Time{}, time.Time{}, nil, nil
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		h.options.Since = 30 * time.Minute
		v = h.report().Review
		if len(v.Opens)+len(v.Activity)+len(v.Feedback.Newest) != 0 || v.Users != (report.Users{}) || v.Feedback.Count != 0 {
			t.Errorf("of the last half hour: %+v", v)
		}
	})
}

func TestMake_ReturnsTheErrorsOfOthers(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.sql(`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`)
		broken := errors.New("no such service")
		h.options.Users = func(context.Context) (int, error) { return 0, broken }
		if _, err := h.maker.Make(t.Context(), h.options); !errors.Is(err, broken) {
			t.Error(err)
		}
		if _, err := h.maker.Make(t.Context(), report.Options{Flag: "nothing"}); !errors.Is(err, flags.ErrNotFound) {
			t.Error(err)
		}
	})
}
