package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

func ptr[T any](v T) *T { return &v }

func TestReport_MeasuresTheCriteria(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		adopters := func(n, of int) func(context.Context, time.Time, time.Time) (int, int, error) {
			return func(_ context.Context, from, to time.Time) (int, int, error) {
				if from.After(to) || time.Since(from).Abs() > 10*24*time.Hour {
					t.Errorf("asked from %v to %v", from, to)
				}
				return n, of, nil
			}
		}
		check := func(g rollout.Goals, want ...string) {
			t.Helper()
			r, err := h.Report(t.Context(), flag, g)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{string(r.Verdict)}
			for _, c := range r.Criteria {
				got = append(got, fmt.Sprintf("%s %s: %s; %s", c.Name, c.Verdict, c.Measured, c.Wanted))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		p := hours()
		p.Stages[3].Hold, p.Stages[3].MinSamples, p.LatencyP95, p.DatabaseP95 = 2*time.Hour, 0, time.Second, 0
		h.create(p)
		check(rollout.Goals{Adopters: adopters(1, 0)}, "open",
			"full_rollout open: 100 % for 0s, pending; 100 % for 72h0m0s",
			"error_rate open: 0.00 %, 0 of 0; below 1 %",
			"adoption open: not measured; at least 30 % within 168h0m0s",
			"latency open: more in 0.00 % of 0, 0s on average; at most 1s in 95 % of the requests",
			"database open: 0s on average; the plan has no gate",
			"open_bugs open: not stated; no open P0 or P1 bug")
		h.do(rollout.ActionStart)
		h.do(rollout.ActionPromote)
		h.evidence(rollout.ArmExposed, rollout.Counts{Outcomes: 1000, Failures: 9})
		h.after(time.Hour)
		h.sql(`UPDATE automation_rollout_counts SET slow = 51, latency_us = 2000000, db_us = 1000000`)
		goals := rollout.Goals{Full: 2 * time.Hour, Adopters: adopters(29, 100), OpenBugs: ptr(0)}
		check(goals, "not_met",
			"full_rollout open: 100 % for 1h0m0s, running; 100 % for 2h0m0s",
			"error_rate met: 0.90 %, 9 of 1000; below 1 %",
			"adoption open: 29.0 %, 29 of 100; at least 30 % within 168h0m0s",
			"latency not_met: more in 5.10 % of 1000, 2ms on average; at most 1s in 95 % of the requests",
			"database open: 1ms on average; the plan has no gate",
			"open_bugs met: 0, as stated; no open P0 or P1 bug")
		h.sql(`UPDATE automation_rollout_counts SET slow = 50, failures = 10`)
		h.after(time.Hour)
		goals.Adopters, goals.OpenBugs = adopters(30, 100), ptr(1)
		check(goals, "not_met",
			"full_rollout met: 100 % for 2h0m0s, completed; 100 % for 2h0m0s",
			"error_rate not_met: 1.00 %, 10 of 1000; below 1 %",
			"adoption met: 30.0 %, 30 of 100; at least 30 % within 168h0m0s",
			"latency met: more in 5.00 % of 1000, 2ms on average; at most 1s in 95 % of the requests",
			"database open: 1ms on average; the plan has no gate",
			"open_bugs not_met: 1, as stated; no open P0 or P1 bug")
		goals.Adopters, goals.Within, goals.OpenBugs, goals.ErrorRate = adopters(29, 100), time.Nanosecond, ptr(0), .02
		check(goals, "not_met",
			"full_rollout met: 100 % for 2h0m0s, completed; 100 % for 2h0m0s",
			"error_rate met: 1.00 %, 10 of 1000; below 2 %",
			"adoption not_met: 29.0 %, 29 of 100; at least 30 % within 1ns",
			"latency met: more in 5.00 % of 1000, 2ms on average; at most 1s in 95 % of the requests",
			"database open: 1ms on average; the plan has no gate",
			"open_bugs met: 0, as stated; no open P0 or P1 bug")
		h.do(rollout.ActionRestart)
		h.do(rollout.ActionAbort)
		r, err := h.Report(t.Context(), flag, rollout.Goals{})
		if err != nil || r.Criteria[0].Verdict != rollout.VerdictNotMet || r.Epoch != 2 || r.Evidence != (rollout.Evidence{}) {
			t.Errorf("%+v, %v", r, err)
		}
		h.do(rollout.ActionRestart)
		h.breach()
		r, err = h.Report(t.Context(), flag, rollout.Goals{})
		if err != nil || r.State != rollout.StateRolledBack || r.Evidence.Exposed.Failures != 48 || !strings.HasPrefix(r.Detail, "48 of 80 requests failed in 2m") {
			t.Errorf("after a rollback: %+v, %v", r, err)
		}
		if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionAbort, Actor: "alice"}); !errors.Is(err, rollout.ErrIllegal) ||
			!strings.HasSuffix(err.Error(), "it is rolled_back already; to take the feature away, switch the flag off") {
			t.Errorf("abort after the end: %v", err)
		}
		broken := errors.New("no such table")
		goals.Adopters = func(context.Context, time.Time, time.Time) (int, int, error) { return 0, 0, broken }
		if _, err := h.Report(t.Context(), flag, goals); !errors.Is(err, broken) {
			t.Error(err)
		}
		if _, err := h.Report(t.Context(), "nothing", goals); !errors.Is(err, rollout.ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestReport_IsMetAfterASuccess(t *testing.T) {
	h := newHarness(t, sqlite(t))
	p := hours()
	p.Stages[3].MinSamples = 0
	h.create(p)
	h.do(rollout.ActionStart)
	h.do(rollout.ActionPromote)
	h.evidence(rollout.ArmExposed, rollout.Counts{Outcomes: 1000, Failures: 9})
	h.after(time.Hour)
	r, err := h.Report(t.Context(), flag, rollout.Goals{Full: time.Hour, OpenBugs: ptr(0),
		Adopters: func(context.Context, time.Time, time.Time) (int, int, error) { return 1, 2, nil }})
	if err != nil || r.Verdict != rollout.VerdictMet {
		t.Errorf("%+v, %v", r, err)
	}
}
