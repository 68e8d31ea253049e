package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore_ListsRunningProcesses(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		s := replica.NewStore(pool, nil)
		healthy := replica.State{FeatureEnabled: true, FlagVersion: 7, FlagAge: 1500 * time.Millisecond, Rates: replica.Rates{Requests: 10, Failures: 1}}
		failing := replica.State{Problems: map[string]string{"node": "does not respond"}, Rates: replica.Rates{Requests: 9, Failures: 9, NodeFailures: 9},
			Figures: replica.Figures{Served: 3, Failed: map[string]int64{"node": 9}, Overhead: []int64{1, 2}}}
		for number := range int64(2) { // the second report of each process replaces the first
			for id, state := range map[string]replica.State{"a": healthy, "b": failing, "crashed": healthy} {
				if err := s.Report(t.Context(), replica.Report{ID: id, Number: number + 1, State: state}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := pool.ExecContext(t.Context(), `UPDATE automation_replicas SET seen_at = '2026-01-01 00:00:00.000' WHERE id = 'crashed'`); err != nil {
			t.Fatal(err)
		}
		list, err := s.List(t.Context())
		if err != nil || len(list) != 2 {
			t.Fatalf("list %+v, error %v; want two processes", list, err)
		}
		got := map[string]replica.State{}
		for _, r := range list {
			if r.Host == "" || r.Version == "" || time.Since(r.StartedAt.Time).Abs() > time.Minute || r.NodeOK != (r.ID == "a") || r.SeenAt.Sub(r.FlagsAt) != r.FlagAge {
				t.Errorf("process %+v; want a host, a version, a start within the last minute, NodeOK for a alone and FlagsAt = SeenAt - FlagAge", r)
			}
			got[r.ID] = r.State
		}
		healthy.Problems = map[string]string{}
		if diff := cmp.Diff(map[string]replica.State{"a": healthy, "b": failing}, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		var all int
		if err := pool.GetContext(t.Context(), &all, `SELECT count(*) FROM automation_replicas`); err != nil || all != 3 {
			t.Errorf("the table has %d rows, error %v; want 3", all, err)
		}
	})
}

// activity returns the sums of the activity that all replicas have reported.
func activity(t *testing.T, pool *sqlx.DB) []replica.Activity {
	t.Helper()
	var list []replica.Activity
	if err := pool.SelectContext(t.Context(), &list, `SELECT kind, cause, max(evidence) AS evidence, sum(requests) AS requests, sum(slow) AS slow, sum(db_slow) AS db_slow,
		sum(latency_us) AS latency_us, sum(db_us) AS db_us FROM automation_activity GROUP BY kind, cause ORDER BY kind, cause`); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestReport_AddsActivityOnce(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		s := replica.NewStore(pool, nil)
		one := []replica.Activity{{Kind: "chat", Cause: "node", Evidence: "shared", Requests: 1, LatencyUS: 10}, {Kind: "chat", Cause: "none", Evidence: "success", Requests: 2, Slow: 1, DatabaseSlow: 1, LatencyUS: 30, DatabaseUS: 4}}
		for _, r := range []replica.Report{
			{ID: "a", Number: 1, Activity: one},
			{ID: "a", Number: 1, Activity: one}, // repeated because its outcome was unknown
			{ID: "b", Number: 1, Activity: one},
			{ID: "a", Number: 2, Activity: one[:1]},
			{ID: "a", Number: 3},
		} {
			if err := s.Report(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		want := []replica.Activity{{Kind: "chat", Cause: "node", Evidence: "shared", Requests: 3, LatencyUS: 30}, {Kind: "chat", Cause: "none", Evidence: "success", Requests: 4, Slow: 2, DatabaseSlow: 2, LatencyUS: 60, DatabaseUS: 8}}
		if diff := cmp.Diff(want, activity(t, pool)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		var period string
		if err := pool.GetContext(t.Context(), &period, `SELECT CAST(max(period) AS text) FROM automation_activity`); err != nil || !strings.Contains(period, "0:00") {
			t.Errorf("period %q, error %v; want the start of a period of ten minutes", period, err)
		}
	})
}

func TestRun_ReportsUntilItEndsAndDeletesItsRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := schematest.SQLite(t)
		var reports atomic.Int64
		s := replica.NewStore(pool, func(name string, _, _ time.Duration, _ error) {
			if name == "replicas.report" {
				reports.Add(1)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		counter := replica.NewCounter(time.Now)
		counter.AddActivity(replica.Activity{Kind: "chat", Cause: "none", Evidence: "success", Requests: 1})
		go func() {
			defer close(done)
			s.Run(ctx, slog.New(slog.DiscardHandler), replica.Counters{Requests: counter, Failures: replica.NewFailures(), Now: time.Now}, func() replica.State { return replica.State{FeatureEnabled: true} })
		}()
		time.Sleep(10 * time.Minute)
		if n := reports.Load(); n < 54 || n > 67 {
			t.Errorf("%d reports in ten minutes, want about one every ten seconds", n)
		}
		other := replica.NewStore(pool, nil)
		if list, err := other.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("list %v, error %v; want one process", list, err)
		}
		counter.AddActivity(replica.Activity{Kind: "chat", Cause: "none", Evidence: "success", Requests: 1})
		cancel()
		<-done
		if list := activity(t, pool); len(list) != 1 || list[0].Requests != 2 {
			t.Errorf("reported %+v, want two requests: one from the start and one from the end", list)
		}
		if list, err := other.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("list %v, error %v; want no process after the end", list, err)
		}
	})
}

func TestRun_WarnsOnceWhileItCannotReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := schematest.SQLite(t)
		if _, err := pool.ExecContext(t.Context(), `DROP TABLE automation_replicas`); err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer // needs no lock: only Run's goroutine writes
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			replica.NewStore(pool, nil).Run(ctx, slog.New(slog.NewTextHandler(&text, nil)),
				replica.Counters{Requests: replica.NewCounter(time.Now), Failures: replica.NewFailures(), Now: time.Now}, func() replica.State { return replica.State{} })
		}()
		time.Sleep(10 * time.Minute)
		cancel()
		<-done
		if n := strings.Count(text.String(), "cannot report its state"); n != 1 {
			t.Errorf("%d warnings in ten minutes, want 1:\n%s", n, text.String())
		}
	})
}

func TestCounter_CountsTheLastMinute(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := replica.NewCounter(func() time.Time { return now })
	c.Add(false, false)
	c.Add(true, false)
	c.Add(true, true)
	if got, want := c.Rates(), (replica.Rates{Requests: 3, Failures: 2, NodeFailures: 1}); got != want {
		t.Errorf("rates %+v, want %+v", got, want)
	}
	now = now.Add(50 * time.Second)
	c.Add(false, false)
	if got, want := c.Rates(), (replica.Rates{Requests: 4, Failures: 2, NodeFailures: 1}); got != want {
		t.Errorf("rates %+v after 50 s, want %+v", got, want)
	}
	now = now.Add(30 * time.Second)
	if got, want := c.Rates(), (replica.Rates{Requests: 1}); got != want {
		t.Errorf("rates %+v after 80 s, want %+v", got, want)
	}
	now = now.Add(time.Hour)
	if got := c.Rates(); got != (replica.Rates{}) {
		t.Errorf("rates %+v after an hour, want none", got)
	}
}

// failures returns the stored failures as "user cause code requests seconds", where seconds
// is the time from the first to the last request.
func failures(t *testing.T, pool *sqlx.DB) []string {
	t.Helper()
	age := `CAST(round(EXTRACT(EPOCH FROM failed_at - began_at)) AS integer)`
	if pool.DriverName() == "sqlite" {
		age = `CAST(round((julianday(failed_at) - julianday(began_at)) * 86400) AS integer)`
	}
	var list []string
	if err := pool.SelectContext(t.Context(), &list, `SELECT user_id || ' ' || cause || ' ' || code || ' ' || CAST(requests AS text) || ' ' || CAST(`+age+` AS text)
		FROM automation_user_failures ORDER BY user_id, cause, code`); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestReport_AddsUsersFailures(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		s, number, now := replica.NewStore(pool, nil), int64(0), time.Now()
		report := func(list ...replica.Failure) {
			t.Helper()
			number++
			if err := s.Report(t.Context(), replica.Report{ID: "a", Number: number, UserFailures: list, At: now}); err != nil {
				t.Fatal(err)
			}
		}
		failure := func(user, code string, requests int64, began, last time.Duration) replica.Failure {
			return replica.Failure{UserID: user, Cause: "node", Code: code, Requests: requests, BeganAt: now.Add(-began), FailedAt: now.Add(-last)}
		}
		report(failure("ann", "x", 3, 40*time.Hour, 30*time.Hour), failure("bob", "x", 1, time.Hour, time.Hour), failure("eve", "x", 5, time.Minute, 0))
		report(failure("ann", "x", 2, time.Minute, 0), failure("ann", "y", 1, 0, 0), failure("bob", "x", 4, time.Minute, time.Minute))
		want := []string{"ann node x 2 60", "ann node y 1 0", "bob node x 5 3540", "eve node x 5 60"} // ann's row starts again after a day without a failure
		if diff := cmp.Diff(want, failures(t, pool)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// The users' failures of a process cost the database few rows, and none while it
// is slow or fails.
func TestRun_WritesNoFailuresToASlowOrFailingDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := schematest.SQLite(t)
		c := replica.Counters{Requests: replica.NewCounter(time.Now), Failures: replica.NewFailures(), Now: time.Now}
		fail := func(users int) {
			for i := range users {
				c.Failures.Add(replica.Failure{UserID: fmt.Sprintf("u%04d", i), Cause: "database", BeganAt: time.Now(), FailedAt: time.Now(), Requests: 1})
			}
		}
		execute := func(statement string) {
			t.Helper()
			if _, err := pool.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		var delay atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			replica.NewStore(pool, func(name string, _, _ time.Duration, _ error) {
				if name == "replicas.report" {
					time.Sleep(time.Duration(delay.Load()))
				}
			}).Run(ctx, slog.New(slog.DiscardHandler), c, func() replica.State { return replica.State{} })
		}()
		wantRows := func(want int, when string) {
			t.Helper()
			if n := len(failures(t, pool)); n != want {
				t.Errorf("%s: %d rows of failures, want %d", when, n, want)
			}
		}
		fail(2000)
		time.Sleep(25 * time.Second)
		wantRows(0, "after 25 s")
		time.Sleep(25 * time.Second)
		wantRows(100, "after 50 s")
		time.Sleep(20 * time.Minute)
		wantRows(1000, "after 20 minutes, with 2000 users")

		execute(`DELETE FROM automation_user_failures`)
		delay.Store(int64(time.Second))
		time.Sleep(time.Minute)
		fail(3)
		time.Sleep(10 * time.Minute)
		wantRows(0, "while reports are slow")
		delay.Store(0)
		time.Sleep(time.Minute)
		wantRows(3, "when reports are fast again")

		execute(`ALTER TABLE automation_replicas RENAME TO renamed`)
		fail(2)
		time.Sleep(10 * time.Minute)
		wantRows(3, "while the database fails")
		execute(`ALTER TABLE renamed RENAME TO automation_replicas`)
		time.Sleep(2 * time.Minute)
		var requests int
		if err := pool.GetContext(t.Context(), &requests, `SELECT sum(requests) FROM automation_user_failures`); err != nil || requests != 5 {
			t.Errorf("after the outage: %d failed requests, error %v; want 5", requests, err)
		}

		fail(1)
		c.Failures.Add(replica.Failure{UserID: "erased", Cause: "node", BeganAt: time.Now(), FailedAt: time.Now(), Requests: 1})
		c.Failures.Erase("erased")
		cancel()
		<-done
		if err := pool.GetContext(t.Context(), &requests, `SELECT sum(requests) FROM automation_user_failures`); err != nil || requests != 6 {
			t.Errorf("at the end: %d failed requests, error %v; want 6, including the last one", requests, err)
		}
	})
}
