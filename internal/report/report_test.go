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

// harness is a database in which the test writes the past.
type harness struct {
	t        *testing.T
	pool     *sqlx.DB
	db       *sqldb.DB // expands the macros of SQL
	rollouts *rollout.Store
	maker    *report.Maker
	options  report.Options
}

// onBoth runs a test on both databases.
func onBoth(t *testing.T, test func(t *testing.T, h *harness)) {
	t.Helper()
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		h := &harness{t: t, pool: pool, db: sqldb.New(pool, sqldb.Options{}), rollouts: rollout.NewStore(pool)}
		h.maker, h.options = report.New(pool, h.rollouts, sqldb.Options{}), report.Options{Flag: "automation"}
		h.unlockAudit()
		test(t, h)
	})
}

func (h *harness) sql(statements ...string) {
	h.t.Helper()
	for _, s := range statements {
		if _, err := h.pool.ExecContext(h.t.Context(), h.db.Expand(s)); err != nil {
			h.t.Fatalf("%s: %v", s, err)
		}
	}
}

// unlockAudit drops the triggers that forbid changing events, so that the test can
// change their times.
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

// elapse makes everything in the database older by d.
func (h *harness) elapse(d time.Duration) {
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

// requests inserts the activity of n requests with a cause, one second ago.
func (h *harness) requests(cause string, n, slow int) {
	h.t.Helper()
	evidence := map[string]string{"none": "success", "session": "failure", "opening": "failure", "provider": "compared", "node": "shared", "client": "none"}[cause]
	h.sql(fmt.Sprintf(`INSERT INTO automation_activity (period, kind, cause, evidence, requests, slow, db_slow, latency_us, db_us) VALUES ({in -1}, 'chat', '%s', '%s', %d, %d, 0, %d, 1000)`,
		cause, evidence, n, slow, 2000*n))
}

// openSessions inserts a session, created and used now, for each of some users.
func (h *harness) openSessions(users int) {
	h.t.Helper()
	for i := range users {
		h.sql(fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, duration, state, created_at, ends_at, next_at, last_used_at)
			VALUES ('%[1]d', '0x%[1]d', 'm', 'u%[1]d', 'u%[1]d', 3600, 'open', {now}, {in 3600}, {now}, {now})`, i))
	}
}

// setUsers sets how many users could have the feature.
func (h *harness) setUsers(n int) {
	h.options.Users = func(context.Context) (int, error) { return n, nil }
}

var (
	figure     = regexp.MustCompile(`[0-9]`)
	sinceHours = regexp.MustCompile(`(\d+h)\d+m\d+s`)
)

// report returns a report. It fails the test if an open verdict has a figure.
func (h *harness) report() report.Report {
	h.t.Helper()
	r, err := h.maker.Make(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range r.Criteria {
		if c.Measured == "" || c.Verdict == report.VerdictOpen && figure.MatchString(c.Measured) {
			h.t.Errorf("%s is %s, measured %q; want a text, and no figure while it is open", c.Name, c.Verdict, c.Measured)
		}
	}
	return r
}

// expect compares the state, the verdict, and the criteria in their order.
func (h *harness) expect(r report.Report, want ...string) {
	h.t.Helper()
	got := []string{string(r.State), string(r.Verdict)}
	for _, c := range r.Criteria {
		measured := sinceHours.ReplaceAllString(c.Measured, "${1}0m0s") // without the time that the test takes
		got = append(got, fmt.Sprintf("%s %s: %s", c.Name, c.Verdict, measured))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.t.Errorf("the report (-want +got):\n%s", diff)
	}
}

func TestMake_MeasuresARolloutByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		r := h.report()
		h.expect(r, "pending", "open", "full_rollout open: the rollout has not begun", "error_rate open: too few requests to tell",
			"adoption open: the rollout has not begun", "latency open: too few requests to tell", "database open: too few requests to tell", "open_bugs open: not stated")
		if !r.ByHand || len(r.Steps) != 0 {
			t.Errorf("before the rollout: by hand %t, steps %v; want by hand without steps", r.ByHand, r.Steps)
		}

		h.elapse(time.Hour)
		h.sql(`UPDATE feature_flags SET enabled_user_ids = '[1, 2, 3]' WHERE feature_name = 'automation'`)
		h.setUsers(100)
		h.openSessions(20) // users need no settings if the feature is on by default
		h.sql(`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at) VALUES
			('u1', TRUE, 3600, {now}, {now}), ('a', TRUE, 3600, {now}, {now}), ('b', FALSE, 3600, {now}, {now})`)
		h.requests("none", 30, 0)
		h.expect(h.report(), "running", "open", "full_rollout open: not everybody has it yet", "error_rate met: 0.00 %, 0 of 30",
			"adoption open: the first week is not over", "latency met: longer in 0.00 % of 30 requests, 2 ms on average", "database met: longer in 0.00 % of 30 requests, 0.03333 ms on average", "open_bugs open: not stated")

		for _, percentage := range []string{"10", "50", "100"} {
			h.elapse(24 * time.Hour)
			h.sql(`UPDATE feature_flags SET rollout_percentage = ` + percentage + ` WHERE feature_name = 'automation'`)
		}
		h.expect(h.report(), "running", "open", "full_rollout open: everybody has it, not yet for long enough", "error_rate open: too few requests to tell",
			"adoption open: the first week is not over", "latency open: too few requests to tell", "database open: too few requests to tell", "open_bugs open: not stated")

		h.elapse(24 * time.Hour)
		h.requests("none", 994, 40)
		h.requests("session", 5, 0)
		h.requests("provider", 1, 0)
		h.requests("node", 500, 0) // no evidence, because it affects all requests
		h.requests("client", 90, 0)
		h.elapse(48 * time.Hour)
		bugs := 0
		h.options.OpenBugs = &bugs
		h.setUsers(70)
		r = h.report()
		h.expect(r, "completed", "met", "full_rollout met: 100 % for 72 hours, completed", "error_rate met: 0.60 %, 6 of 1000", "adoption met: 30.0 %, 21 of 70 users",
			"latency met: longer in 4.00 % of 1000 requests, 2 ms on average", "database met: longer in 0.00 % of 1000 requests, 0.003 ms on average", "open_bugs met: 0, as stated")
		var steps []string
		for _, s := range r.Steps {
			steps = append(steps, s.String())
		}
		if want := []string{"0 %, 3 users listed", "10 %, 3 users listed", "50 %, 3 users listed", "100 %, 3 users listed"}; !cmp.Equal(want, steps) {
			t.Errorf("steps %q, want %q", steps, want)
		}
		if r.At.Sub(r.BeganAt).Round(time.Hour) != 144*time.Hour || r.TakenBack != nil {
			t.Errorf("the rollout began %v before the report, taken back %+v; want 144h, not taken back", r.At.Sub(r.BeganAt), r.TakenBack)
		}

		h.setUsers(1000)
		h.elapse(24 * time.Hour)
		if c := h.report().Criteria[2]; c.Verdict != report.VerdictNotMet || c.Measured != "2.1 %, 21 of 1000 users" {
			t.Errorf("adoption after the first week: %+v, want not_met with figures", c)
		}
		h.options.Retention = 24 * time.Hour
		if c := h.report().Criteria[2]; c.Verdict != report.VerdictOpen || c.Measured != "sessions of the first week are past their retention" {
			t.Errorf("adoption past the retention: %+v, want open with the reason", c)
		}
	})
}

func TestMake_ShowsWhatLedToARollbackByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.sql(`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`)
		h.elapse(2 * time.Hour)
		h.sql(`UPDATE feature_flags SET rollout_percentage = 50 WHERE feature_name = 'automation'`)
		h.elapse(time.Hour)
		h.requests("none", 70, 0)
		h.requests("opening", 30, 0)
		h.sql(`UPDATE feature_flags SET enabled = FALSE, notice = 'Back at 18:00', updated_by = 'ann' WHERE feature_name = 'automation'`)
		h.elapse(time.Hour)
		r := h.report()
		h.expect(r, "rolled_back", "not_met", "full_rollout not_met: the feature was rolled back", "error_rate not_met: 30.00 %, 30 of 100",
			"adoption open: how many users there are was not stated", "latency met: longer in 0.00 % of 100 requests, 2 ms on average", "database met: longer in 0.00 % of 100 requests, 0.02 ms on average", "open_bugs open: not stated")
		b := r.TakenBack
		if b == nil || b.By != "ann" || b.Detail != "Back at 18:00" || b.Stage != "50 %" || b.Evidence.Failures != 30 || b.At.Sub(b.Since).Round(time.Minute) != time.Hour {
			t.Fatalf("taken back: %+v, want by ann after an hour at 50 %% with 30 failures", b)
		}
		if len(b.Activity) != 2 || b.Activity[1].Cause != "opening" || b.Activity[1].Requests != 30 {
			t.Errorf("the activity that led to it: %+v, want 30 requests with the cause opening as the second", b.Activity)
		}
		began := r.BeganAt
		for _, c := range []struct {
			name, sql string
			continues bool
			takenBack bool
		}{
			{"switched on again at the same percentage", `UPDATE feature_flags SET enabled = TRUE WHERE feature_name = 'automation'`, true, false},
			{"at a lower percentage", `UPDATE feature_flags SET rollout_percentage = 5 WHERE feature_name = 'automation'`, true, true},
			{"switched off", `UPDATE feature_flags SET enabled = FALSE WHERE feature_name = 'automation'`, true, true},
			{"switched on at a lower percentage than ever", `UPDATE feature_flags SET enabled = TRUE, rollout_percentage = 1 WHERE feature_name = 'automation'`, false, false},
		} {
			h.sql(c.sql)
			if r := h.report(); r.BeganAt.Equal(began) != c.continues || (r.TakenBack != nil) != c.takenBack {
				t.Errorf("%s: began %v, at first %v, taken back %+v; want continued %t, taken back %t", c.name, r.BeganAt, began, r.TakenBack, c.continues, c.takenBack)
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
			t.Errorf("pending: %s, by hand %t, verdict %s; want pending, by the controller, open", r.State, r.ByHand, r.Verdict)
		}
		do(rollout.ActionStart)
		// As if the transaction had taken ten seconds after the flag's change, as it may on
		// a busy machine.
		h.sql(`UPDATE feature_flag_events SET changed_at = {in -10} WHERE changed_by = 'rollout:automation'`)
		do(rollout.ActionPromote)
		evidence := `INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
			SELECT name, bake, 'other', 'exposed', epoch, stage, 1000, 9, 0, 51, 0, 2000000, 1000000, {now} FROM automation_rollouts`
		h.sql(evidence, `UPDATE automation_rollouts SET watched = 3600`)
		h.elapse(time.Hour)
		h.setUsers(10)
		r := h.report()
		h.expect(r, "running", "not_met", "full_rollout open: everybody has it, not yet for long enough", "error_rate met: 0.90 %, 9 of 1000", "adoption open: the first week is not over",
			"latency not_met: longer in 5.10 % of 1000 requests, 2 ms on average", "database met: longer in 0.00 % of 1000 requests, 1 ms on average", "open_bugs open: not stated")
		if r.ByHand || r.Epoch != 1 || len(r.Steps) != 2 || r.Steps[0].String() != "0 %, 1 users listed" || r.Steps[1].String() != "100 %, 1 users listed" {
			t.Errorf("by hand %t, epoch %d, steps %v; want the controller's first epoch with both of its steps", r.ByHand, r.Epoch, r.Steps)
		}
		h.sql(`UPDATE automation_rollouts SET watched = 259200, state = 'completed'`)
		bugs := 1
		h.options.OpenBugs = &bugs
		r = h.report()
		if full, bugs := r.Criteria[0], r.Criteria[5]; full.Measured != "100 % for 72 hours, completed" || bugs.Measured != "1, as stated" || bugs.Verdict != report.VerdictNotMet {
			t.Errorf("completed, with an open bug: %+v and %+v", full, bugs)
		}

		t.Run("a completed rollout that was switched off by hand is one by hand", func(t *testing.T) {
			h.sql(`UPDATE feature_flags SET enabled = FALSE, updated_by = 'bob' WHERE feature_name = 'automation'`)
			if r := h.report(); !r.ByHand || r.State != rollout.StateRolledBack || r.TakenBack == nil || r.TakenBack.By != "bob" {
				t.Errorf("by hand %t, %s, taken back %+v; want rolled back by hand by bob", r.ByHand, r.State, r.TakenBack)
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
				t.Fatalf("by hand %t, epoch %d, taken back %+v; want epoch 2 with the event's detail, stage and evidence", r.ByHand, r.Epoch, b)
			}
			if len(b.Activity) != 1 || b.Activity[0].Requests != 7 || r.Criteria[0].Measured != "the feature was rolled back" {
				t.Errorf("activity %+v, full rollout %+v; want 7 requests, and that it was taken back", b.Activity, r.Criteria[0])
			}
		})
	})
}

func TestMake_CountsAnAdoptedFlagAsBegun(t *testing.T) {
	h := &harness{t: t, pool: pgtest.Open(t, pgtest.Database(t))}
	h.db = sqldb.New(h.pool, sqldb.Options{})
	h.sql(`CREATE TABLE feature_flags (feature_name varchar(100) PRIMARY KEY, enabled boolean, enabled_user_ids json)`,
		`INSERT INTO feature_flags VALUES ('automation', true, '[1, 2]')`)
	schematest.Migrate(t, h.pool)
	h.maker, h.options = report.New(h.pool, rollout.NewStore(h.pool), sqldb.Options{}), report.Options{Flag: "automation"}
	if r := h.report(); r.State != rollout.StateRunning || len(r.Steps) != 1 || r.Steps[0].Listed != 2 || r.BeganAt.IsZero() {
		t.Errorf("the rollout is %s, began %v, steps %v; want it running since a first step with two users", r.State, r.BeganAt, r.Steps)
	}
}

func TestMake_ReviewsASpan(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.openSessions(3)
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
		h.elapse(time.Hour)
		v := h.report().Review
		want := report.Review{
			Opens: []report.Opens{{Purpose: "prewarm", Opened: 1}, {Purpose: "replacement", Opened: 1}, {Purpose: "request", Opened: 5, Failed: 1, Dropped: 1, Unknown: 1}},
			Users: report.Users{Active: 4, OptedIn: 1, OptedOut: 1},
			Unused: []report.Unused{{What: "opened and never used", Sessions: 1, Seconds: 1800}, {What: "ended early by the chain or a provider", Sessions: 1, Seconds: 1800},
				{What: "opened differently than requested", Sessions: 1, Seconds: 1800}, {What: "in the wallet now, but not in the database", Sessions: 2}},
			Feedback: report.Feedback{Count: 3, Open: 2, Rated: 2, Rating: 2.5},
		}
		if len(v.Activity) != 1 || v.Activity[0].Requests != 4 || len(v.Feedback.Newest) != 2 || v.To.Sub(v.From) != 7*24*time.Hour {
			t.Errorf("from %v to %v, activity %+v, newest feedback %+v; want a week, 4 requests and 2 entries", v.From, v.To, v.Activity, v.Feedback.Newest)
		}
		v.From, v.To, v.Activity, v.Feedback.Newest = time.Time{}, time.Time{}, nil, nil
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("the review (-want +got):\n%s", diff)
		}
		h.options.Since = 30 * time.Minute
		v = h.report().Review
		if len(v.Opens)+len(v.Activity)+len(v.Feedback.Newest) != 0 || v.Users != (report.Users{}) || v.Feedback.Count != 0 {
			t.Errorf("the review of the last half hour is %+v, want an empty one", v)
		}
	})
}

func TestMake_WrapsErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.sql(`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`)
		broken := errors.New("no such service")
		h.options.Users = func(context.Context) (int, error) { return 0, broken }
		if _, err := h.maker.Make(t.Context(), h.options); !errors.Is(err, broken) {
			t.Errorf("with an error of Options.Users: %v, want %v", err, broken)
		}
		if _, err := h.maker.Make(t.Context(), report.Options{Flag: "nothing"}); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("of an unknown flag: %v, want flags.ErrNotFound", err)
		}
	})
}
