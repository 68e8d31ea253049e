package cleanup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	usersLeft    = `SELECT user_id FROM user_automation_settings ORDER BY user_id`
	sessionsLeft = `SELECT id FROM automation_sessions ORDER BY id`
	eventsLeft   = `SELECT changed_by FROM feature_flag_events WHERE changed_by <> 'migration' ORDER BY id`
)

// flagEvent inserts an event of a flag that is hours old.
func flagEvent(by string, hours float64) string {
	return `INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
		VALUES ('automation', 1, 'update', ` + ago(hours) + `, '` + by + `', '{}', '{}')`
}

// rolloutRows inserts one row in each of a rollout's tables. The rollout's name is its age in hours.
func rolloutRows(hours float64) []string {
	name, at := fmt.Sprintf("'%.0f'", hours), ago(hours)
	return []string{
		`INSERT INTO automation_rollout_events (rollout, seq, epoch, stage, bake, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at)
			VALUES (` + name + `, 1, 1, 1, 1, 's', 10, 'start', '', 'running', 't', '', '{}', ` + at + `)`,
		`INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
			VALUES (` + name + `, 1, 'i', 'exposed', 1, 1, 0, 0, 0, 0, 0, 0, 0, ` + at + `)`,
		`INSERT INTO automation_rollout_failures (rollout, stage_run, kind, user_hash, minute) VALUES (` + name + `, 1, 'failure', 'h', ` + at + `)`,
		`INSERT INTO automation_rollout_minutes (rollout, minute, stage_run, evidence, failing_users) VALUES (` + name + `, ` + at + `, 1, '{}', 0)`,
		`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at) VALUES ('r', ` + name + `, 1, '', ` + at + `, ` + at + `)`,
	}
}

func TestPass_DeletesOnlyRowsPastTheirRetention(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool,
			setting("deleted-long-ago", false, 3600, 31*day, 31*day),
			setting("deleted-lately", true, 3600, 29*day, 29*day),
			setting("opted-out-long-ago", false, 3600, 500*day, 0),
			setting("opted-in-long-ago", true, 3600, 500*day, 0),
			session("closed-long-ago", "u", "closed", 32*day, 31*day),
			session("failed-long-ago", "u", "failed", 31*day, 31*day),
			session("closed-lately", "u", "closed", 29*day, 29*day),
			session("failed-lately", "u", "failed", 1, 1),
			session("open-for-long", "u", "open", 60*day, 0),
			session("ending-for-long", "u", "ending", 60*day, 0),
			flagEvent("old", 366*day), flagEvent("recent", 364*day))
		for _, hours := range []float64{366 * day, 364 * day} {
			execute(t, pool, rolloutRows(hours)...)
		}
		for key, age := range map[string]struct{ created, done float64 }{"done-long-ago": {31 * day, 1}, "done": {29 * day, 1}, "open": {31 * day, 0}, "forgotten": {366 * day, 0}} {
			done := "NULL"
			if age.done > 0 {
				done = ago(age.done)
			}
			execute(t, pool, `INSERT INTO automation_feedback (key, user_id, message, created_at, done_at) VALUES ('`+key+`', 'u', 'm', `+ago(age.created)+`, `+done+`)`)
		}
		for cause, age := range map[string]float64{"long-ago": 366 * day, "lately": 364 * day} {
			execute(t, pool, `INSERT INTO automation_activity (period, kind, cause, evidence, requests, slow, db_slow, latency_us, db_us) VALUES (`+ago(age)+`, 'chat', '`+cause+`', 'none', 1, 0, 0, 0, 0)`)
		}
		for user, age := range map[string]float64{"long-ago": 31 * day, "lately": 29 * day} {
			execute(t, pool, `INSERT INTO automation_user_failures (user_id, cause, code, began_at, failed_at, requests) VALUES ('`+user+`', 'node', 'c', `+ago(40*day)+`, `+ago(age)+`, 2)`)
		}
		for id, age := range map[string]float64{"gone": 25, "late": 1} {
			execute(t, pool, `INSERT INTO automation_replicas (id, host, version, started_at, seen_at, feature_enabled, flag_version, flag_age, requests, failures, node_failures)
				VALUES ('`+id+`', 'h', 'v', `+ago(age)+`, `+ago(age)+`, TRUE, 1, 0, 0, 0, 0)`)
		}
		c := newCleaner(t, pool, cleanup.Options{})

		want := []int64{1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
		if dry := mustPass(t, c, true); !dry.DryRun || dry.Total() != 14 || !cmp.Equal(want, counts(dry)) {
			t.Errorf("the dry run counts %+v, want 14 rows: %v", dry, want)
		}
		if n := len(selectStrings(t, pool, usersLeft)) + len(selectStrings(t, pool, sessionsLeft)) + len(selectStrings(t, pool, eventsLeft)); n != 12 {
			t.Fatalf("%d rows after the dry run, want all 12", n)
		}
		if r := mustPass(t, c, false); r.DryRun || !cmp.Equal(want, counts(r)) {
			t.Errorf("removed %+v, want %v", r, want)
		}
		for query, want := range map[string][]string{
			usersLeft:    {"deleted-lately", "opted-in-long-ago", "opted-out-long-ago"},
			sessionsLeft: {"closed-lately", "ending-for-long", "failed-lately", "open-for-long"},
			eventsLeft:   {"recent"},
			`SELECT rollout FROM automation_rollout_events`:    {"8736"},
			`SELECT rollout FROM automation_rollout_counts`:    {"8736"},
			`SELECT rollout FROM automation_rollout_outbox`:    {"8736"},
			`SELECT key FROM automation_feedback ORDER BY key`: {"done", "open"},
			`SELECT id FROM automation_replicas`:               {"late"},
			`SELECT cause FROM automation_activity`:            {"lately"},
			`SELECT user_id FROM automation_user_failures`:     {"lately"},
			`SELECT rollout FROM automation_rollout_failures`:  {"8736"},
			`SELECT rollout FROM automation_rollout_minutes`:   {"8736"},
		} {
			if diff := cmp.Diff(want, selectStrings(t, pool, query)); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", query, diff)
			}
		}
		if r := mustPass(t, c, false); r.Total() != 0 {
			t.Errorf("a second pass removed %+v, want nothing", r)
		}
	})
}

func TestPass_DeletesDefaultSettingsOnlyIfOnIsTheDefault(t *testing.T) {
	fixture := []string{
		setting("equal", true, 3600, 31*day, 0),
		setting("equal-but-new", true, 3600, 29*day, 0),
		setting("equal-but-used", true, 3600, 31*day, 0),
		setting("equal-failed-only", true, 3600, 31*day, 0),
		setting("longer", true, 7200, 31*day, 0),
		setting("out", false, 3600, 3000*day, 0),
		session("s1", "equal-but-used", "open", 1, 0),
		session("s2", "equal-failed-only", "failed", 1, 1),
	}
	all := []string{"equal", "equal-but-new", "equal-but-used", "equal-failed-only", "longer", "out"}
	for name, test := range map[string]struct {
		options cleanup.Options
		want    []string
	}{
		"on is the default": {cleanup.Options{DefaultOptIn: true}, []string{"equal-but-new", "equal-but-used", "longer", "out"}},
		"on is the default, in batches of one": {cleanup.Options{DefaultOptIn: true, Batch: 1},
			[]string{"equal-but-new", "equal-but-used", "longer", "out"}},
		"on is the default, for two hours": {cleanup.Options{DefaultOptIn: true, DefaultDuration: 2 * time.Hour},
			[]string{"equal", "equal-but-new", "equal-but-used", "equal-failed-only", "out"}},
		"off is the default": {cleanup.Options{}, all},
	} {
		t.Run(name, func(t *testing.T) {
			schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
				execute(t, pool, fixture...)
				c := newCleaner(t, pool, test.options)
				if dry := mustPass(t, c, true); dry.Total() != int64(len(all)-len(test.want)) {
					t.Errorf("the dry run counts %+v, want %d rows", dry, len(all)-len(test.want))
				}
				mustPass(t, c, false)
				if diff := cmp.Diff(test.want, selectStrings(t, pool, usersLeft)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}

func TestPass_KeepsTheEvidenceOfTheCurrentEpoch(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, rolloutRows(400*day)...)
		execute(t, pool, `INSERT INTO automation_rollouts (name, plan, state, epoch, stage, bake, seq, began_at, entered_at, looked_at, next_at)
			VALUES ('9600', '{}', 'running', 1, 0, 1, 1, {now}, {now}, {now}, {now})`)
		c := newCleaner(t, pool, cleanup.Options{})
		left := func() int { return selectInt(t, pool, `SELECT count(*) FROM automation_rollout_counts`) }
		if mustPass(t, c, false); left() != 1 {
			t.Error("the evidence of the current epoch was deleted")
		}
		execute(t, pool, `UPDATE automation_rollouts SET epoch = 2`)
		if mustPass(t, c, false); left() != 0 {
			t.Error("the evidence of an earlier epoch was kept")
		}
	})
}

func TestPass_KeepsSessionsYoungerThanAnUncertainOpen(t *testing.T) {
	for _, state := range []string{"opening", "unknown", "lost"} {
		t.Run(state, func(t *testing.T) {
			schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
				execute(t, pool,
					session("uncertain", "u", state, 40*day, 0),
					session("before", "u", "closed", 42*day, 41*day),
					session("after", "u", "closed", 39*day, 38*day),
					session("long-after", "u", "closed", 33*day, 32*day))
				c := newCleaner(t, pool, cleanup.Options{})
				mustPass(t, c, false)
				if diff := cmp.Diff([]string{"after", "long-after", "uncertain"}, selectStrings(t, pool, sessionsLeft)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				execute(t, pool, `UPDATE automation_sessions SET state = 'failed', closed_at = {now} WHERE id = 'uncertain'`)
				mustPass(t, c, false)
				if diff := cmp.Diff([]string{"uncertain"}, selectStrings(t, pool, sessionsLeft)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}

func TestPass_LeavesTheAuditAppendOnly(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		pool.SetMaxOpenConns(1) // the statement below uses the same connection as the clean-up
		execute(t, pool, flagEvent("old", 400*day), flagEvent("recent", 1))
		mustPass(t, newCleaner(t, pool, cleanup.Options{}), false)
		if _, err := pool.ExecContext(t.Context(), `DELETE FROM feature_flag_events`); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("error %v, want that of the append-only trigger", err)
		}
		if diff := cmp.Diff([]string{"recent"}, selectStrings(t, pool, eventsLeft)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestPass_ReportsItsRowsWhenCanceledAndTheNextContinues(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		const n = 100
		fill(t, pool, n)
		ctx, cancel := context.WithCancel(t.Context())
		o := cleanup.Options{Batch: 10}
		o.Progress = func(r cleanup.Report) {
			if r.Total() >= 130 {
				cancel()
			}
		}
		r, err := newCleaner(t, pool, o).Pass(ctx, false)
		if !errors.Is(err, context.Canceled) || r.Total() != 130 {
			t.Errorf("removed %d rows, error %v; want 130 and the context's error", r.Total(), err)
		}
		o.Progress = nil
		if r := mustPass(t, newCleaner(t, pool, o), false); r.Total() != 3*n-130 {
			t.Errorf("the next pass removed %d rows, want the remaining %d", r.Total(), 3*n-130)
		}
		checkRemaining(t, pool, n)
	})
}

func TestPass_RunsInOneProcessAtATime(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		fill(t, pool, 20)
		other := newCleaner(t, pool, cleanup.Options{})
		var busy error
		var dry cleanup.Report
		c := newCleaner(t, pool, cleanup.Options{Batch: 5, Progress: func(r cleanup.Report) {
			if r.Total() == 5 {
				_, busy = other.Pass(t.Context(), false)
				dry = mustPass(t, other, true)
			}
		}})
		if r := mustPass(t, c, false); r.Total() != 60 {
			t.Errorf("removed %d, want all 60", r.Total())
		}
		if !errors.Is(busy, cleanup.ErrBusy) {
			t.Errorf("a second process during the pass: error %v, want ErrBusy", busy)
		}
		if dry.Total() != 55 {
			t.Errorf("a dry run during the pass counts %d rows, want the remaining 55", dry.Total())
		}
		mustPass(t, other, false) // fails if the lease was not released
	})
}

func TestPass_StopsWhenItsLeaseIsLost(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		fill(t, pool, 20)
		c := newCleaner(t, pool, cleanup.Options{Batch: 5, Progress: func(cleanup.Report) {
			execute(t, pool, `UPDATE automation_jobs SET lease_token = 'another'`)
		}})
		r, err := c.Pass(t.Context(), false)
		if !errors.Is(err, cleanup.ErrLeaseLost) || r.Total() != 5 {
			t.Errorf("removed %d rows, error %v; want 5 and ErrLeaseLost", r.Total(), err)
		}
		if got := selectStrings(t, pool, `SELECT lease_token FROM automation_jobs`); !cmp.Equal(got, []string{"another"}) {
			t.Errorf("lease token %v, want that of the other process", got)
		}
	})
}

func TestPass_RunsAfterTheLeaseOfADeadProcessExpired(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		c := newCleaner(t, pool, cleanup.Options{})
		execute(t, pool, `UPDATE automation_jobs SET lease_token = 'dead', lease_until = {in 30}`)
		if _, err := c.Pass(t.Context(), false); !errors.Is(err, cleanup.ErrBusy) {
			t.Errorf("error %v before the lease has expired, want ErrBusy", err)
		}
		execute(t, pool, `UPDATE automation_jobs SET lease_until = {in -0.1}`)
		mustPass(t, c, false)
		execute(t, pool, `DELETE FROM automation_jobs`) // an operator may have deleted the row
		mustPass(t, c, false)
	})
}

func TestNew_NamesEveryInvalidOption(t *testing.T) {
	_, err := cleanup.New(nil, cleanup.Options{Retention: time.Hour, AuditRetention: time.Minute, Batch: -1})
	for _, want := range []string{"Retention is 1h0m0s, expected at least 24h0m0s", "AuditRetention is 1m0s, expected at least 2160h0m0s (90 days)", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that contains %q", err, want)
		}
	}
}

func TestPass_ReportsAnUnavailableDatabase(t *testing.T) {
	pool := schematest.SQLite(t)
	_ = pool.Close()
	c := newCleaner(t, pool, cleanup.Options{})
	for _, dryRun := range []bool{true, false} {
		if _, err := c.Pass(t.Context(), dryRun); !errors.Is(err, cleanup.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
	}
}

func TestPass_ShrinksSlowBatches(t *testing.T) {
	pool := schematest.SQLite(t)
	fill(t, pool, 400)
	var now time.Time
	var sizes []int64
	var last int64
	c, err := cleanup.New(sqldb.New(pool, sqldb.Options{}), cleanup.Options{Batch: 100, Pause: time.Microsecond,
		Now: func() time.Time { now = now.Add(time.Second); return now },
		Progress: func(r cleanup.Report) {
			if n := r.Removed[0].Rows; len(r.Removed) == 1 {
				sizes, last = append(sizes, n-last), n
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	mustPass(t, c, false)
	if diff := cmp.Diff([]int64{100, 50, 25, 20, 20}, sizes[:5]); diff != "" {
		t.Errorf("rows of each batch (-want +got)\n%s", diff)
	}
}

func TestPass_AcceptsTimesInOtherFormats(t *testing.T) {
	pool := schematest.SQLite(t)
	execute(t, pool, setting("a", true, 3600, 40*day, 40*day), setting("b", true, 3600, 40*day, 40*day), setting("c", true, 3600, 40*day, 40*day),
		`UPDATE user_automation_settings SET deleted_at = 'yesterday' WHERE user_id = 'a'`,
		`UPDATE user_automation_settings SET deleted_at = '2020-01-01' WHERE user_id = 'b'`)
	mustPass(t, newCleaner(t, pool, cleanup.Options{Batch: 1}), false)
	if diff := cmp.Diff([]string{"a"}, selectStrings(t, pool, usersLeft)); diff != "" {
		t.Errorf("users left (-want +got)\n%s", diff)
	}
}

func TestReport_EncodesDurationsAsSeconds(t *testing.T) {
	r := cleanup.Report{Took: 1500 * time.Millisecond, Removed: []cleanup.Count{{Kind: "k", Table: "t", OlderThan: time.Hour, Rows: 2}}}
	got, err := json.Marshal(r)
	const want = `{"dry_run":false,"total":2,"removed":[{"kind":"k","table":"t","older_than_seconds":3600,"rows":2}],"took_seconds":1.5}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, error %v; want %s", got, err, want)
	}
}
