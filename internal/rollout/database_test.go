package rollout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

func TestRollout_PassesAllStages(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		p.Stages[0].Users = flags.NewIDs("7")
		p.Stages[2].Users = flags.NewIDs("8")
		p.Stages[1].Approval = true
		h.sql(`UPDATE feature_flags SET enabled_user_ids = '["1", "8"]', enabled = false`)
		h.create(p)
		h.expectStatus(rollout.StatePending, "", 0, false, 0)
		h.do(rollout.ActionStart)
		h.expectStatus(rollout.StateRunning, "time", 0, true, 0)
		listed := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, h.flag().EnabledUserIDs.List()); diff != "" {
				t.Errorf("the flag's users (-want +got):\n%s", diff)
			}
		}
		listed("1", "7")
		h.after(14 * time.Minute)
		h.expectStatus(rollout.StateRunning, "time", 0, true, 0)
		h.after(time.Minute)
		h.expectStatus(rollout.StateRunning, "samples", 0, true, 0)
		h.after(time.Hour) // the first quarter of the hold has had no requests
		h.expectStatus(rollout.StateRunning, "samples", 0, true, 0)
		h.hold()
		h.expectStatus(rollout.StateRunning, "time", 1, true, 10*flags.Percent)
		h.hold()
		h.expectStatus(rollout.StateRunning, "approval", 1, true, 10*flags.Percent)
		h.do(rollout.ActionApprove)
		h.after(0)
		h.expectStatus(rollout.StateRunning, "time", 2, true, 50*flags.Percent)
		listed("1", "7", "8")
		h.do(rollout.ActionPromote)
		h.expectStatus(rollout.StateRunning, "time", 3, true, 100*flags.Percent)
		h.hold()
		h.expectStatus(rollout.StateCompleted, "", 3, true, 100*flags.Percent)
		h.after(time.Hour)
		h.expectActions("create", rollout.ActionStart, "wait", "advance", "wait", rollout.ActionApprove, "advance", rollout.ActionPromote, "complete")

		// The same cohort again, from the beginning.
		h.do(rollout.ActionRestart)
		h.expectStatus(rollout.StateRunning, "time", 0, true, 0)
		listed("1", "7")
		if s := h.status(); s.Epoch != 2 || s.Evidence != (rollout.Evidence{}) || h.flag().Seed != "" {
			t.Errorf("restarted: epoch %d, evidence %+v, seed %q; want epoch 2 without evidence, and no seed", s.Epoch, s.Evidence, h.flag().Seed)
		}
		if f, version := h.flag(), h.status().FlagVersion; f.UpdatedBy != "rollout:"+flag || f.Version != version {
			t.Errorf("the flag is at version %d, written by %s; want version %d, written by the rollout", f.Version, f.UpdatedBy, version)
		}
	})
}

func TestRollout_StepsBackAndThenSwitchesOff(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		h.create(p)
		h.do(rollout.ActionStart)
		h.do(rollout.ActionSkip)
		h.do(rollout.ActionSkip)
		h.breach()
		h.expectStatus(rollout.StatePaused, "breach", 1, true, 10*flags.Percent)
		// The minutes are by the database's clock, so that the test's own time counts.
		detail := regexp.MustCompile(`^48 of 80 requests failed in [\d.]+ minutes, 60\.0 % where 5 % are allowed, for 7 users$`)
		events := h.events()
		if last := events[len(events)-1]; last.Action != "step_back" || last.Evidence.Exposed.Failures != 48 || last.Actor != "rollout:"+flag ||
			!detail.MatchString(last.Detail) || time.Since(last.At.Time).Abs() > time.Hour || !detail.MatchString(h.status().Detail) {
			t.Errorf("the last event is %+v, want a step back by the rollout after 48 failures, with the detail %s", last, detail)
		}
		if f := h.flag(); f.Notice != "" {
			t.Errorf("users who still have the feature get the notice %q", f.Notice)
		}
		h.after(3 * time.Hour) // it does not advance by itself again
		h.expectStatus(rollout.StatePaused, "breach", 1, true, 10*flags.Percent)
		h.breach()
		h.expectStatus(rollout.StateRolledBack, "breach", 1, false, 10*flags.Percent)
		if f := h.flag(); f.Notice != p.Notice {
			t.Errorf("after the rollback the notice is %q, want the plan's, %q", f.Notice, p.Notice)
		}
		h.after(time.Hour) // no more events follow
		h.expectActions("create", rollout.ActionStart, rollout.ActionSkip, rollout.ActionSkip, "step_back", "rollback")
		h.do(rollout.ActionRestart)
		if f := h.flag(); f.Notice != "" || !f.Enabled {
			t.Errorf("restarted: enabled %t, notice %q; want it enabled without a notice", f.Enabled, f.Notice)
		}
	})
}

func TestRollout_ContinuesAfterAStepBackWasResumed(t *testing.T) {
	h := newHarness(t, sqlite(t))
	h.create(hourlyPlan())
	h.do(rollout.ActionStart)
	h.do(rollout.ActionSkip)
	h.breach()
	h.expectStatus(rollout.StatePaused, "breach", 0, true, 0)
	h.do(rollout.ActionResume)
	h.expectStatus(rollout.StateRunning, "time", 0, true, 0)
	h.hold()
	h.expectStatus(rollout.StateRunning, "time", 1, true, 10*flags.Percent)
	h.breach()
	h.expectStatus(rollout.StatePaused, "breach", 0, true, 0) // not switched off, because the stage before had passed
	h.do(rollout.ActionResume)
	h.breach()
	h.expectStatus(rollout.StateRolledBack, "breach", 0, false, 0)
}

func TestRollout_WatchesACompletedRollout(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.do(rollout.ActionPromote)
		h.do(rollout.ActionSkip)
		h.expectStatus(rollout.StateCompleted, "operator", 3, true, 100*flags.Percent)
		h.breach()
		h.expectStatus(rollout.StatePaused, "breach", 2, true, 50*flags.Percent)
		h.do(rollout.ActionPromote)
		h.do(rollout.ActionSkip)
		h.sql(`UPDATE automation_rollouts SET watched_until = looked_at`) // its hold is over
		h.breach()
		h.expectStatus(rollout.StateCompleted, "operator", 3, true, 100*flags.Percent)
	})
}

func TestRollout_LeavesOtherNoticesUnchanged(t *testing.T) {
	h := newHarness(t, sqlite(t))
	p := hourlyPlan()
	p.Notice = ""
	h.sql(`UPDATE feature_flags SET notice = 'new: automation'`)
	h.create(p)
	h.do(rollout.ActionStart)
	h.do(rollout.ActionAbort)
	if f := h.flag(); f.Notice != "new: automation" || f.Enabled {
		t.Errorf("aborted: enabled %t, notice %q; want it disabled with its own notice", f.Enabled, f.Notice)
	}
}

func TestRollout_WaitsInAnOutage(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.windows(6, rollout.Counts{Outcomes: 20, Failures: 12, ProviderFailures: 12}, rollout.Counts{Outcomes: 200, Failures: 110})
		h.expectStatus(rollout.StateRunning, "outage", 0, true, 0)
		h.windows(1, rollout.Counts{Outcomes: 5, SharedFailures: 15}, rollout.Counts{})
		h.after(time.Hour)
		h.expectStatus(rollout.StateRunning, "outage", 0, true, 0)
		if s := h.status(); s.WatchedSeconds > 120 || !strings.Contains(s.Detail, "because of the node or the database") {
			t.Errorf("watched for %v s, with the detail %q; want at most 120 s, and the cause of the outage", s.WatchedSeconds, s.Detail)
		}
		h.windows(6, rollout.Counts{Outcomes: 20}, rollout.Counts{Outcomes: 200})
		h.expectStatus(rollout.StateRunning, "time", 0, true, 0) // the hour of the outage does not count as watched
		h.expectActions("create", rollout.ActionStart, "wait")
	})
}

func TestRollout_PausesOrNotifiesOnABreach(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		p.OnBreach = rollout.BreachPause
		h.create(p)
		h.do(rollout.ActionStart)
		h.breach()
		h.expectStatus(rollout.StatePaused, "breach", 0, true, 0)
		h.after(time.Hour)
		h.do(rollout.ActionResume) // and the evidence begins again
		h.after(time.Minute)
		h.expectStatus(rollout.StateRunning, "time", 0, true, 0)
		h.do(rollout.ActionAbort)
		p.OnBreach = rollout.BreachNotify
		h.create(p)
		h.do(rollout.ActionStart)
		h.breach()
		h.after(time.Hour)
		h.after(time.Hour)
		h.expectStatus(rollout.StateRunning, "breach", 0, true, 0)
		h.expectActions("create", rollout.ActionStart, "breach", rollout.ActionResume, rollout.ActionAbort, "create", rollout.ActionStart, "breach")
		if s := h.status(); s.Epoch != 2 {
			t.Errorf("epoch %d, want 2", s.Epoch)
		}
	})
}

func TestRollout_PausesItsAdvanceAfterAHandEdit(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.do(rollout.ActionSkip)
		effect := func(want string) {
			t.Helper()
			got, err := h.HandEditEffect(t.Context(), flag)
			if err != nil || got != want {
				t.Errorf("effect of the hand edit: %q, %v; want %q", got, err, want)
			}
		}
		effect("")
		h.sql(`UPDATE feature_flags SET rollout_percentage = 3, updated_by = 'dba' WHERE feature_name = 'automation'`)
		effect(`The rollout of "automation" pauses: dba set the flag to 3 %, the stage has 10 %; a breach is still acted on. Resuming it sets the flag to its stage again.`)
		// Until an evaluation has seen the edit, an action that would overwrite it is refused.
		if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionSkip, Actor: "alice"}); !errors.Is(err, flags.ErrConflict) {
			t.Errorf("skip over an unseen edit: %v, want ErrConflict", err)
		}
		h.after(time.Hour)
		h.expectStatus(rollout.StatePaused, "hand_edit", 1, true, 3*flags.Percent)
		h.sql(`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`)
		h.breach() // is no evidence, because nobody has the feature
		h.expectStatus(rollout.StatePaused, "hand_edit", 1, false, 3*flags.Percent)
		h.sql(`UPDATE feature_flags SET enabled = true WHERE feature_name = 'automation'`)
		h.breach()
		h.expectStatus(rollout.StateRolledBack, "breach", 1, false, 3*flags.Percent)
		h.do(rollout.ActionRestart)
		h.sql(`DELETE FROM feature_flags`)
		h.after(time.Minute)
		if s := h.status(); s.State != rollout.StatePaused || s.Reason != "hand_edit" {
			t.Errorf("without the flag the rollout is %s (%s), want paused (hand_edit)", s.State, s.Reason)
		}
		h.after(time.Minute)
		if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionAbort, Actor: "alice"}); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("abort without the flag: %v, want flags.ErrNotFound", err)
		}
		h.expectActions("create", rollout.ActionStart, rollout.ActionSkip, "hand_edit", "rollback", rollout.ActionRestart, "hand_edit")
	})
}

func TestRollout_AdoptsUsersAndNoticesEditedByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.do(rollout.ActionSkip)
		h.sql(`UPDATE feature_flags SET enabled_user_ids = '["7"]', disabled_user_ids = '["8"]', notice = 'soon for all', updated_by = 'dba' WHERE feature_name = 'automation'`)
		if got, err := h.HandEditEffect(t.Context(), flag); err != nil || got != `The rollout of "automation" continues with this change.` {
			t.Errorf("effect of the hand edit: %q, %v; want that the rollout continues", got, err)
		}
		h.after(time.Minute)
		h.expectStatus(rollout.StateRunning, "time", 1, true, 10*flags.Percent)
		h.hold()
		h.expectStatus(rollout.StateRunning, "time", 2, true, 50*flags.Percent)
		h.sql(`UPDATE feature_flags SET enabled_user_ids = '["7", "9"]' WHERE feature_name = 'automation'`)
		h.do(rollout.ActionSkip) // before an evaluation has seen it
		if f := h.flag(); f.Notice != "soon for all" || f.EnabledUserIDs.Len() != 2 || f.DisabledUserIDs.Len() != 1 {
			t.Errorf("notice %q, enabled for %v, disabled for %v; want the values of the hand edits", f.Notice, f.EnabledUserIDs.List(), f.DisabledUserIDs.List())
		}
		h.expectActions("create", rollout.ActionStart, rollout.ActionSkip, "adopt", "advance", rollout.ActionSkip)
	})
}

func TestRollout_CountsNoDowntimeAsWatched(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		p.Stages[1].Hold, p.Stages[1].MinSamples, p.Stages[1].Approval = 0, 0, true
		h.create(p)
		h.do(rollout.ActionStart)
		h.evidence(rollout.ArmExposed, rollout.Counts{Outcomes: 100})
		h.after(6 * time.Hour) // more than five intervals, which does not count
		h.expectStatus(rollout.StateRunning, "time", 0, true, 0)
		if s := h.status(); s.WatchedSeconds != 0 {
			t.Errorf("after downtime the stage was watched for %v s, want 0", s.WatchedSeconds)
		}
		h.hold()
		for range 3 {
			h.after(30 * 24 * time.Hour)
		}
		h.expectStatus(rollout.StateRunning, "approval", 1, true, 10*flags.Percent)
	})
}

func TestExecute_ChangesNothingInADryRun(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		before, flagBefore := h.status(), h.flag()
		dry, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionSkip, Actor: "alice", DryRun: true})
		if err != nil || dry.Action != rollout.ActionSkip || dry.StageName != "10 %" {
			t.Errorf("a dry skip returns %+v, %v; want the event of a skip to the stage \"10 %%\"", dry, err)
		}
		if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionStart, Actor: "alice", DryRun: true}); !errors.Is(err, rollout.ErrIllegal) {
			t.Errorf("an illegal dry run: %v, want ErrIllegal", err)
		}
		if diff := cmp.Diff(before, h.status()); diff != "" {
			t.Errorf("a dry run changed the rollout (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(flagBefore, h.flag()); diff != "" {
			t.Errorf("a dry run changed the flag (-before +after):\n%s", diff)
		}
		h.expectActions("create", rollout.ActionStart)
	})
}

func TestCreate_RefusesInvalidPlansAndRunningRollouts(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		create := func(name string, p rollout.Plan, actor string) error {
			_, err := h.Create(t.Context(), name, p, actor)
			return err
		}
		if err := create("nothing", hourlyPlan(), "alice"); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("create for an unknown flag: %v, want flags.ErrNotFound", err)
		}
		err := create("", rollout.Plan{OnBreach: "hope"}, strings.Repeat("x", 201))
		for _, field := range []string{"name: ", "actor: ", "stages: ", "on_breach: "} {
			if !errors.Is(err, rollout.ErrInvalid) || !strings.Contains(err.Error(), field) {
				t.Errorf("create with invalid arguments: %v, want an ErrInvalid with %q", err, field)
			}
		}
		long := hourlyPlan()
		ids := make([]string, 200_000)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		long.Stages[0].Users = flags.NewIDs(ids...)
		if err := create(flag, long, "alice"); !errors.Is(err, rollout.ErrInvalid) || !strings.Contains(err.Error(), "at most 10000 are allowed") {
			t.Errorf("create with 200,000 users: %v, want an ErrInvalid with the limit", err)
		}
		if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionStart, Actor: "alice"}); !errors.Is(err, rollout.ErrNotFound) {
			t.Errorf("start without a rollout: %v, want ErrNotFound", err)
		}
		if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionStart}); !errors.Is(err, rollout.ErrInvalid) {
			t.Errorf("start without an actor: %v, want ErrInvalid", err)
		}
		if _, err := h.Get(t.Context(), flag); !errors.Is(err, rollout.ErrNotFound) {
			t.Errorf("get without a rollout: %v, want ErrNotFound", err)
		}
		h.create(hourlyPlan())
		p := hourlyPlan()
		p.Stages = p.Stages[:2]
		h.create(p) // replaces the plan of the pending one
		if s := h.status(); len(s.Plan.Stages) != 2 || s.Epoch != 1 || s.State != rollout.StatePending {
			t.Errorf("created again: %d stages, epoch %d, %s; want 2 stages, epoch 1, pending", len(s.Plan.Stages), s.Epoch, s.State)
		}
		h.do(rollout.ActionStart)
		if err := create(flag, hourlyPlan(), "alice"); !errors.Is(err, rollout.ErrIllegal) || !strings.Contains(err.Error(), "the rollout is running") {
			t.Errorf("create while one is running: %v, want an ErrIllegal that says so", err)
		}
		h.do(rollout.ActionAbort)
		// After somebody has deleted the row, the numbers continue from the history.
		h.sql(`DELETE FROM automation_rollouts`)
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		if s := h.status(); s.Epoch != 2 || s.Seq != 6 {
			t.Errorf("after the row was deleted: epoch %d, seq %d; want 2 and 6", s.Epoch, s.Seq)
		}
		h.expectActions("create", "create", rollout.ActionStart, rollout.ActionAbort, "create", rollout.ActionStart)
	})
}

func TestTick_AddsCountsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		p.LatencyP95 = time.Second
		h.create(p)
		h.do(rollout.ActionStart)
		one, two := h.controller, h.newController(rollout.Options{})
		pass := func(c *rollout.Controller) {
			t.Helper()
			if err := c.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		one.Recorder(flag)
		two.Recorder(flag)
		pass(one)
		pass(two) // both know the stage run now
		outcomes := []rollout.Outcome{rollout.OutcomeSuccess, rollout.OutcomeFailure, rollout.OutcomeProviderFailure, rollout.OutcomeSharedFailure, rollout.OutcomeIgnored}
		for i := range 30 {
			user := fmt.Sprint(i)
			one.Recorder(flag).Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeSuccess, UserID: user, Latency: 2 * time.Millisecond, DatabaseTime: time.Millisecond})
			two.Recorder(flag).Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: outcomes[i%5], UserID: user})
			two.Recorder(flag).Record(rollout.Sample{Arm: rollout.ArmControl, Outcome: rollout.OutcomeProviderFailure, UserID: user})
		}
		one.Recorder(flag).Record(rollout.Sample{Arm: rollout.ArmExposed, UserID: "slow", Latency: 2 * time.Second})
		for range 3 {
			pass(one)
			pass(two)
		}
		want := rollout.Evidence{
			Exposed: rollout.Counts{Outcomes: 49, Failures: 12, ProviderFailures: 6, Slow: 1, LatencyUS: 2_060_000, DatabaseUS: 30_000, SharedFailures: 6, Ignored: 6},
			Control: rollout.Counts{Outcomes: 30, Failures: 30, ProviderFailures: 30},
		}
		if diff := cmp.Diff(want, h.status().Evidence); diff != "" {
			t.Errorf("the evidence after three passes of each replica (-want +got):\n%s", diff)
		}
		// A late write, such as of a replica that was frozen, lowers no count.
		h.sql(`UPDATE automation_rollout_counts SET outcomes = 1000 WHERE arm = 'control'`)
		two.Recorder(flag).Record(rollout.Sample{Arm: rollout.ArmControl, Outcome: rollout.OutcomeSuccess, UserID: "late"})
		pass(two)
		if got := h.status().Evidence.Control; got.Outcomes != 1000 || got.Failures != 30 {
			t.Errorf("after a late write: %d outcomes and %d failures, want 1000 and 30", got.Outcomes, got.Failures)
		}
		var notHashed int
		if err := h.db.Get(&notHashed, `SELECT count(*) FROM automation_rollout_failures WHERE length(user_hash) <> 16`); err != nil || notHashed != 0 {
			t.Errorf("%d rows have something else than a hash of 16 characters, %v", notHashed, err)
		}
	})
}

func TestTick_CountsAUsersFailuresOnceAMinute(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		now := time.Now()
		o := rollout.Options{Now: func() time.Time { return now }}
		controllers := []*rollout.Controller{h.newController(o), h.newController(o), h.newController(o)}
		tick := func() {
			t.Helper()
			for _, c := range controllers {
				c.Recorder(flag)
				if err := c.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		tick()
		count := func() int64 { return h.status().Evidence.Exposed.Failures }
		// passMinute lets all requests of some users fail on each replica, and returns
		// how many failures count. If the minute changes during it, a user counts twice.
		passMinute := func(users int) (added int64) {
			before := count()
			for _, c := range controllers {
				for range 5 {
					for user := range users {
						c.Recorder(flag).Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeFailure, UserID: fmt.Sprint(user),
							Latency: 2 * time.Second, DatabaseTime: time.Second})
					}
				}
			}
			tick()
			// Instead of waiting for the database's clock, move the failures back.
			now = now.Add(time.Minute)
			minute := `minute - interval '1 minute'`
			if h.isSQLite() {
				minute = `strftime('%Y-%m-%d %H:%M:%f', minute, '-60 seconds')`
			}
			h.sql(`UPDATE automation_rollout_failures SET minute = ` + minute)
			return count() - before
		}
		if n := passMinute(1); n < 1 || n > 2 {
			t.Errorf("one user's failures on three replicas count %d times in a minute, want once or twice", n)
		}
		for range 30 {
			passMinute(1)
		}
		if n := count(); n < 10 || n > 11 {
			t.Errorf("one user's failures count %d times in half an hour, want 10 or 11", n)
		}
		if n := passMinute(5); n < 4 || n > 8 {
			t.Errorf("the failures of four other users count %d times, want 4 to 8", n)
		}
		e := h.status().Evidence.Exposed
		if e.Latency() != 2*time.Second || e.DatabaseTime() != time.Second || e.DatabaseSlow != e.Outcomes {
			t.Errorf("requests of 2 s with 1 s in the database have a mean of %v and %v, and %d of %d are slow in the database; want 2 s and 1 s, and all",
				e.Latency(), e.DatabaseTime(), e.DatabaseSlow, e.Outcomes)
		}
		h.sql(`UPDATE automation_rollout_failures SET minute = '2020-01-01 00:00:00.000' WHERE minute = (SELECT min(minute) FROM automation_rollout_failures)`)
		now = now.Add(time.Minute)
		tick()
		var old int
		if err := h.db.Get(&old, `SELECT count(*) FROM automation_rollout_failures WHERE minute < '2021-01-01 00:00:00.000'`); err != nil || old != 0 {
			t.Errorf("%d failures are kept for years, %v", old, err)
		}
	})
}

func TestTick_ContinuesPastAMalformedRow(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.sql(`ALTER TABLE automation_rollouts RENAME TO good`)
		h.sql(`CREATE TABLE automation_rollouts AS SELECT * FROM good`)
		for name, set := range map[string]string{
			"plan":  `plan = '{"stages":7}'`,
			"stage": `stage = 99`,
			"watch": `watch = '7'`,
			"nulls": `epoch = NULL, seq = NULL`,
		} {
			h.sql(`INSERT INTO feature_flags (feature_name) VALUES ($1)`, name)
			h.sql(`INSERT INTO automation_rollouts SELECT * FROM good`)
			h.sql(`UPDATE automation_rollouts SET name = '`+name+`', `+set+` WHERE name = $1 AND `+lastRow(h), flag)
		}
		h.sql(`INSERT INTO automation_rollouts (name, state) VALUES (NULL, 'running')`)
		var out bytes.Buffer
		c := h.newController(rollout.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		for range 3 {
			h.elapse(time.Hour)
			err := c.Tick(t.Context())
			bad := map[string]bool{}
			for _, name := range []string{"plan", "stage", "watch", "nulls"} {
				bad[name] = err != nil && strings.Contains(err.Error(), fmt.Sprintf("the row of %q in automation_rollouts cannot be read", name))
			}
			if diff := cmp.Diff(map[string]bool{"plan": true, "stage": true, "watch": true, "nulls": true}, bad); diff != "" {
				t.Errorf("the error %v names these rows (-want +got):\n%s", err, diff)
			}
		}
		if n := strings.Count(out.String(), "a rollout cannot be evaluated"); n != 4 {
			t.Errorf("%d errors are logged for 4 malformed rows, want one each:\n%s", n, out.String())
		}
		list, err := h.List(t.Context())
		if len(list) != 1 || list[0].Name != flag || err == nil {
			t.Errorf("the list is %+v, %v; want the good rollout and an error", list, err)
		}
		if _, err := h.Get(t.Context(), "plan"); err == nil || !errors.As(err, new(*rollout.RowError)) || !errors.Is(err, rollout.ErrInvalid) {
			t.Errorf("get with a malformed plan: %v, want a RowError that wraps ErrInvalid", err)
		}
		h.expectStatus(rollout.StateRunning, "samples", 0, true, 0)
		h.sql(`DELETE FROM automation_rollouts WHERE name IS NULL OR name <> $1`, flag)
		if err := c.Tick(t.Context()); err != nil {
			t.Errorf("a pass after the malformed rows were deleted: %v", err)
		}
	})
}

// lastRow is a condition for the row that was inserted last.
func lastRow(h *harness) string {
	if h.isSQLite() {
		return `rowid = (SELECT max(rowid) FROM automation_rollouts)`
	}
	return `ctid = (SELECT max(ctid) FROM automation_rollouts)`
}

func TestTick_TakesEachStepOnceAmongManyControllers(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		for i := range p.Stages {
			p.Stages[i].MinSamples = 0
		}
		h.create(p)
		h.do(rollout.ActionStart)
		var controllers []*rollout.Controller
		for range 6 {
			controllers = append(controllers, h.newController(rollout.Options{}))
		}
		for range 4 {
			h.elapse(time.Hour)
			var g sync.WaitGroup
			for _, c := range controllers {
				g.Go(func() {
					if err := c.Tick(t.Context()); err != nil {
						t.Errorf("a pass among others: %v", err)
					}
				})
			}
			g.Wait()
		}
		h.expectActions("create", rollout.ActionStart, "advance", "advance", "advance", "complete")
	})
}

func TestExecute_TakesOneOfConcurrentCommands(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		errs := make(chan error, 6)
		for range cap(errs) {
			go func() {
				_, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionStart, Actor: "alice"})
				errs <- err
			}()
		}
		started := 0
		for range cap(errs) {
			if err := <-errs; err == nil {
				started++
			} else if !errors.Is(err, rollout.ErrIllegal) {
				t.Errorf("another start: %v, want ErrIllegal", err)
			}
		}
		if started != 1 {
			t.Errorf("%d of %d concurrent starts succeeded, want 1", started, cap(errs))
		}
		h.expectActions("create", rollout.ActionStart)
	})
}

func TestEvents_ArePagedAndAppendOnly(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.do(rollout.ActionPause)
		page, err := h.Events(t.Context(), flag, 2, 0)
		if err != nil || len(page) != 2 || page[0].Action != rollout.ActionPause || page[1].Action != rollout.ActionStart {
			t.Fatalf("the first page is %+v, %v; want a pause and a start", page, err)
		}
		page, err = h.Events(t.Context(), flag, 0, page[1].Seq)
		if err != nil || len(page) != 1 || page[0].Action != "create" || page[0].From != "" || page[0].To != rollout.StatePending || page[0].Actor != "alice" {
			t.Errorf("the second page is %+v, %v; want the creation by alice", page, err)
		}
		for _, change := range []string{`UPDATE automation_rollout_events SET actor = 'nobody'`, `DELETE FROM automation_rollout_events`} {
			if _, err := h.db.Exec(change); err == nil {
				t.Errorf("the database accepted %s", change)
			}
		}
	})
}

func TestRun_FlushesWhenItEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		p := hourlyPlan()
		for i := range p.Stages {
			p.Stages[i].Hold, p.Stages[i].MinSamples = 80*time.Millisecond, 1
		}
		h.create(p)
		h.do(rollout.ActionStart)
		c := h.newController(rollout.Options{Interval: 50 * time.Millisecond})
		rec := c.Recorder(flag)
		stop := h.start(c)
		user := 0
		until(t, "the rollout is completed", func() bool {
			user++
			rec.Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeSuccess, UserID: fmt.Sprint(user)})
			return h.status().State == rollout.StateCompleted
		})
		stop()
		h.do(rollout.ActionRestart)
		// A controller whose interval is not over flushes its counts at the end.
		slow := h.newController(rollout.Options{})
		rec = slow.Recorder(flag)
		if err := slow.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop = h.start(slow)
		rec.Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeSuccess, UserID: "7"})
		rec.Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeIgnored, UserID: "7"})
		stop()
		if got := h.status().Evidence.Exposed; got.Outcomes != 1 || got.Ignored != 1 {
			t.Errorf("after the end: %d outcomes, %d ignored; want one each", got.Outcomes, got.Ignored)
		}
	})
}

func TestStore_ReturnsErrUnavailableWithoutItsDatabase(t *testing.T) {
	h := newHarness(t, sqlite(t))
	var out bytes.Buffer
	h.controller = h.newController(rollout.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	h.create(hourlyPlan())
	h.do(rollout.ActionStart)
	h.controller.Recorder(flag)
	if err := h.controller.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"tick":   func() error { return h.controller.Tick(ctx) },
		"again":  func() error { return h.controller.Tick(ctx) },
		"get":    func() error { _, err := h.Get(ctx, flag); return err },
		"list":   func() error { _, err := h.List(ctx); return err },
		"events": func() error { _, err := h.Events(ctx, flag, 1, 0); return err },
		"create": func() error { _, err := h.Create(ctx, flag, hourlyPlan(), "a"); return err },
		"execute": func() error {
			_, err := h.Execute(ctx, flag, rollout.Command{Action: rollout.ActionPause, Actor: "a"})
			return err
		},
	} {
		if err := call(); !errors.Is(err, flags.ErrUnavailable) {
			t.Errorf("%s without a database: %v, want ErrUnavailable", name, err)
		}
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors are logged, want one:\n%s", n, out.String())
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	h.controller.Run(cancelled) // returns
}

func TestExecute_ExplainsWhyAnEndedRolloutCannotAbort(t *testing.T) {
	h := newHarness(t, sqlite(t))
	h.create(hourlyPlan())
	h.do(rollout.ActionStart)
	h.breach()
	if _, err := h.Execute(t.Context(), flag, rollout.Command{Action: rollout.ActionAbort, Actor: "alice"}); !errors.Is(err, rollout.ErrIllegal) ||
		!strings.HasSuffix(err.Error(), "it is rolled_back already; to take the feature away, switch the flag off") {
		t.Errorf("abort after the end: %v, want an ErrIllegal that says to switch the flag off", err)
	}
}
