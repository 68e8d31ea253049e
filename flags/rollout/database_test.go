package rollout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

func TestAWholePlan(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		p.Stages[0].Users = flags.NewIDs("7")
		p.Stages[2].Users = flags.NewIDs("8")
		p.Stages[1].Approval = true
		l.sql(`UPDATE feature_flags SET enabled_user_ids = '["1", "8"]', enabled = false`)
		l.create(p)
		l.stands(rollout.Pending, "", 0, false, 0)
		l.do(rollout.Start)
		l.stands(rollout.Running, rollout.ForTime, 0, true, 0)
		listed := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, l.flag().EnabledUserIDs.List()); diff != "" {
				t.Error(diff)
			}
		}
		listed("1", "7")
		l.after(59 * time.Minute)
		l.stands(rollout.Running, rollout.ForTime, 0, true, 0)
		l.after(time.Minute)
		l.stands(rollout.Running, rollout.ForSamples, 0, true, 0)
		l.evidence(rollout.Exposed, 10, 0)
		l.after(time.Minute)
		l.stands(rollout.Running, rollout.ForTime, 1, true, 10*flags.Percent)
		l.evidence(rollout.Exposed, 10, 0)
		l.after(time.Hour)
		l.stands(rollout.Running, rollout.ForApproval, 1, true, 10*flags.Percent)
		l.do(rollout.Approve)
		l.after(0)
		l.stands(rollout.Running, rollout.ForTime, 2, true, 50*flags.Percent)
		listed("1", "7", "8")
		l.do(rollout.Promote)
		l.stands(rollout.Running, rollout.ForTime, 3, true, 100*flags.Percent)
		l.evidence(rollout.Exposed, 10, 0)
		l.after(time.Hour)
		l.stands(rollout.Completed, "", 3, true, 100*flags.Percent)
		l.after(time.Hour)
		l.happened(rollout.Created, rollout.Start, rollout.Waits, rollout.Advanced, rollout.Waits, rollout.Approve, rollout.Advanced, rollout.Promote, rollout.Finished)

		// The same cohort again, from the beginning.
		l.do(rollout.Restart)
		l.stands(rollout.Running, rollout.ForTime, 0, true, 0)
		listed("1", "7")
		if s := l.status(); s.Epoch != 2 || s.Evidence != (rollout.Evidence{}) || l.flag().Seed != "" {
			t.Errorf("%+v, seed %q", s, l.flag().Seed)
		}
		if f := l.flag(); f.UpdatedBy != "rollout:"+flag || f.Version != l.status().FlagVersion {
			t.Errorf("%+v", f)
		}
	})
}

func TestABreachRollsBackAndTellsTheUsers(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		l.create(p)
		l.do(rollout.Start)
		l.do(rollout.Skip)
		l.evidence(rollout.Exposed, 40, 24)
		l.evidence(rollout.Control, 400, 4)
		l.after(time.Second)
		l.stands(rollout.RolledBack, rollout.ByBreach, 1, false, 10*flags.Percent)
		if f := l.flag(); f.Notice != p.Notice {
			t.Errorf("notice %q", f.Notice)
		}
		events := l.events()
		last := events[len(events)-1]
		if last.Evidence.Exposed.Failures != 24 || last.Actor != "rollout:"+flag || last.StageName != "10 %" || last.Percentage != 10*flags.Percent ||
			!strings.HasPrefix(last.Detail, "24 of 40 requests failed, 60.0 % where 5 % are allowed") || time.Since(last.At).Abs() > time.Minute {
			t.Errorf("%+v", last)
		}
		// Terminal: nothing goes on by itself.
		l.after(time.Hour)
		l.happened(rollout.Created, rollout.Start, rollout.Skip, rollout.TookBack)
		l.do(rollout.Restart)
		if f := l.flag(); f.Notice != "" || !f.Enabled {
			t.Errorf("restarted: %+v", f)
		}
	})
}

func TestANoticeOfAnotherIsLeftAlone(t *testing.T) {
	l := newLab(t, lite(t))
	p := hours()
	p.Notice = ""
	l.sql(`UPDATE feature_flags SET notice = 'new: automation'`)
	l.create(p)
	l.do(rollout.Start)
	l.do(rollout.Abort)
	if f := l.flag(); f.Notice != "new: automation" || f.Enabled {
		t.Errorf("%+v", f)
	}
}

func TestAnOutageHoldsInTheDatabaseToo(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		l.do(rollout.Start)
		l.evidence(rollout.Exposed, 40, 24)
		l.evidence(rollout.Control, 400, 220)
		l.after(time.Hour)
		l.stands(rollout.Running, rollout.ForOutage, 0, true, 0)
		l.evidence(rollout.Exposed, 500, 5)
		l.evidence(rollout.Control, 5000, 50)
		l.after(time.Hour)
		l.stands(rollout.Running, rollout.ForTime, 0, true, 0) // the hour of the outage was no hold
		l.after(time.Hour)
		l.happened(rollout.Created, rollout.Start, rollout.Waits, rollout.Advanced)
	})
}

func TestPlansThatPauseOrNotifyOnABreach(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		p.OnBreach = rollout.PauseOnBreach
		l.create(p)
		l.do(rollout.Start)
		l.evidence(rollout.Exposed, 40, 24)
		l.after(time.Minute)
		l.stands(rollout.Paused, rollout.ByBreach, 0, true, 0)
		l.after(time.Hour)
		l.do(rollout.Resume) // and the evidence begins anew
		l.after(time.Minute)
		l.stands(rollout.Running, rollout.ForTime, 0, true, 0)
		l.do(rollout.Abort)
		p.OnBreach = rollout.Notify
		l.create(p)
		l.do(rollout.Start)
		l.evidence(rollout.Exposed, 40, 24)
		l.after(time.Hour)
		l.after(time.Hour)
		l.stands(rollout.Running, rollout.ForBreach, 0, true, 0)
		l.happened(rollout.Created, rollout.Start, rollout.Breached, rollout.Resume, rollout.Abort, rollout.Created, rollout.Start, rollout.Breached)
		if s := l.status(); s.Epoch != 2 {
			t.Errorf("epoch %d", s.Epoch)
		}
	})
}

func TestAHandEditPausesAndIsNotFought(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		l.do(rollout.Start)
		l.do(rollout.Skip)
		l.sql(`UPDATE feature_flags SET rollout_percentage = 3, updated_by = 'dba' WHERE feature_name = 'automation'`)
		// An action that would overwrite it is refused as long as nobody can know.
		if _, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Skip, Actor: "alice"}); !errors.Is(err, rollout.ErrConflict) {
			t.Errorf("skip over an unseen edit: %v", err)
		}
		l.after(time.Hour)
		l.stands(rollout.Paused, rollout.ByHandEdit, 1, true, 3*flags.Percent)
		l.evidence(rollout.Exposed, 40, 40)
		l.after(time.Hour)
		l.stands(rollout.Paused, rollout.ByHandEdit, 1, true, 3*flags.Percent)
		events := l.events()
		if got, want := events[len(events)-1].Detail, "the flag was changed by dba: it is at version 3, the rollout left it at 2"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		l.sql(`DELETE FROM automation_rollout_counts`)
		l.do(rollout.Resume) // a human says so
		l.stands(rollout.Running, rollout.ForTime, 1, true, 10*flags.Percent)
		l.sql(`DELETE FROM feature_flags`)
		l.after(time.Minute)
		if s := l.status(); s.State != rollout.Paused || s.Reason != rollout.ByHandEdit {
			t.Errorf("without the flag: %+v", s)
		}
		if _, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Abort, Actor: "alice"}); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("abort without the flag: %v", err)
		}
		l.happened(rollout.Created, rollout.Start, rollout.Skip, rollout.HandEdited, rollout.Resume, rollout.HandEdited)
	})
}

func TestDowntimeSkipsNothing(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		p.Stages[1].Hold, p.Stages[1].MinSamples, p.Stages[1].Approval = 0, 0, true
		l.create(p)
		l.do(rollout.Start)
		l.evidence(rollout.Exposed, 100, 0)
		l.after(6 * time.Hour) // more than five intervals: nobody watched
		l.stands(rollout.Running, rollout.ForTime, 0, true, 0)
		l.after(time.Hour)
		for range 3 {
			l.after(30 * 24 * time.Hour)
		}
		l.stands(rollout.Running, rollout.ForApproval, 1, true, 10*flags.Percent)
	})
}

func TestADryRunChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		l.do(rollout.Start)
		l.evidence(rollout.Exposed, 40, 24)
		before, flagBefore := l.status(), l.flag()
		e, err := l.Preview(t.Context(), flag)
		if err != nil || e == nil || e.Action != rollout.TookBack || e.To != rollout.RolledBack {
			t.Errorf("%+v, %v", e, err)
		}
		dry, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Skip, Actor: "alice", DryRun: true})
		if err != nil || dry.Action != rollout.Skip || dry.StageName != "10 %" {
			t.Errorf("%+v, %v", dry, err)
		}
		if _, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Start, Actor: "alice", DryRun: true}); !errors.Is(err, rollout.ErrIllegal) {
			t.Errorf("an illegal dry run: %v", err)
		}
		if diff := cmp.Diff(before, l.status()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(flagBefore, l.flag()); diff != "" {
			t.Error(diff)
		}
		l.happened(rollout.Created, rollout.Start)
		l.after(time.Minute)
		if e, err := l.Preview(t.Context(), flag); e != nil || err != nil {
			t.Errorf("after the end: %+v, %v", e, err)
		}
		if _, err := l.Preview(t.Context(), "nothing"); !errors.Is(err, rollout.ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestCreateAndItsRefusals(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		create := func(name string, p rollout.Plan, actor string) error {
			_, err := l.Create(t.Context(), name, p, actor)
			return err
		}
		if err := create("nothing", hours(), "alice"); !errors.Is(err, flags.ErrNotFound) {
			t.Error(err)
		}
		err := create("", rollout.Plan{Policy: "hope"}, strings.Repeat("x", 201))
		for _, field := range []string{"name: ", "actor: ", "stages: ", "policy: "} {
			if !errors.Is(err, rollout.ErrInvalid) || !strings.Contains(err.Error(), field) {
				t.Errorf("%v does not name %s", err, field)
			}
		}
		long := hours()
		ids := make([]string, 200_000)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		long.Stages[0].Users = flags.NewIDs(ids...)
		if err := create(flag, long, "alice"); !errors.Is(err, rollout.ErrInvalid) || !strings.Contains(err.Error(), "at most 10000 are allowed") {
			t.Error(err)
		}
		if _, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Start, Actor: "alice"}); !errors.Is(err, rollout.ErrNotFound) {
			t.Error(err)
		}
		if _, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Start}); !errors.Is(err, rollout.ErrInvalid) {
			t.Error(err)
		}
		if _, err := l.Get(t.Context(), flag); !errors.Is(err, rollout.ErrNotFound) {
			t.Error(err)
		}
		l.create(hours())
		p := hours()
		p.Stages = p.Stages[:2]
		l.create(p) // in the place of one that has not begun
		if s := l.status(); len(s.Plan.Stages) != 2 || s.Epoch != 1 || s.State != rollout.Pending {
			t.Errorf("%+v", s)
		}
		l.do(rollout.Start)
		if err := create(flag, hours(), "alice"); !errors.Is(err, rollout.ErrIllegal) || !strings.Contains(err.Error(), "the rollout is running") {
			t.Error(err)
		}
		l.do(rollout.Abort)
		// A row that somebody deleted leaves its history, which goes on.
		l.sql(`DELETE FROM automation_rollouts`)
		l.create(hours())
		l.do(rollout.Start)
		if s := l.status(); s.Epoch != 2 || s.Seq != 6 {
			t.Errorf("%+v", s)
		}
		l.happened(rollout.Created, rollout.Created, rollout.Start, rollout.Abort, rollout.Created, rollout.Start)
	})
}

func TestCountsAreHandedInOnceHoweverOften(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		l.do(rollout.Start)
		one, two := l.Controller, l.controller(rollout.Options{UserPerMinute: 255})
		pass := func(c *rollout.Controller) {
			t.Helper()
			if err := c.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		one.Recorder(flag)
		two.Recorder(flag)
		pass(one)
		pass(two) // both know the bake now
		for i := range 30 {
			one.Recorder(flag).Record(rollout.Exposed, rollout.Success, fmt.Sprint(i), 2*time.Millisecond, time.Millisecond)
			two.Recorder(flag).Record(rollout.Exposed, rollout.Outcome(i%4), fmt.Sprint(i), 0, 0)
			two.Recorder(flag).Record(rollout.Control, rollout.Failure, fmt.Sprint(i), 0, 0)
		}
		for range 3 {
			pass(one)
			pass(two)
		}
		want := rollout.Evidence{
			Exposed: rollout.Counts{Outcomes: 46, Failures: 8, Ignored: 14, LatencyUS: 60_000, DatabaseUS: 30_000},
			Control: rollout.Counts{Outcomes: 30, Failures: 30},
		}
		if diff := cmp.Diff(want, l.status().Evidence); diff != "" {
			t.Error(diff)
		}
		// What comes late, from a replica that froze before, lowers nothing.
		l.sql(`UPDATE automation_rollout_counts SET outcomes = 1000 WHERE arm = 'control'`)
		two.Recorder(flag).Record(rollout.Control, rollout.Success, "late", 0, 0)
		pass(two)
		if got := l.status().Evidence.Control; got.Outcomes != 1000 || got.Failures != 30 {
			t.Errorf("%+v", got)
		}
		var ids int
		if err := l.db.Get(&ids, `SELECT count(*) FROM automation_rollout_counts WHERE incarnation = '1'`); err != nil || ids != 0 {
			t.Errorf("%d, %v", ids, err)
		}
	})
}

func TestAMalformedRowHarmsOnlyItself(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		l.do(rollout.Start)
		l.sql(`ALTER TABLE automation_rollouts RENAME TO good`)
		l.sql(`CREATE TABLE automation_rollouts AS SELECT * FROM good`)
		for name, set := range map[string]string{
			"plan":  `plan = '{"stages":7}'`,
			"stage": `stage = 99`,
			"watch": `watch = '[]'`,
			"nulls": `epoch = NULL, seq = NULL`,
		} {
			l.sql(`INSERT INTO feature_flags (feature_name) VALUES ($1)`, name)
			l.sql(`INSERT INTO automation_rollouts SELECT * FROM good`)
			l.sql(`UPDATE automation_rollouts SET name = '`+name+`', `+set+` WHERE name = $1 AND `+ctid(l), flag)
		}
		l.sql(`INSERT INTO automation_rollouts (name, state) VALUES (NULL, 'running')`)
		var out bytes.Buffer
		c := l.controller(rollout.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		for range 3 {
			l.elapse(time.Hour)
			err := c.Tick(t.Context())
			bad := map[string]bool{}
			for _, name := range []string{"plan", "stage", "watch", "nulls"} {
				bad[name] = err != nil && strings.Contains(err.Error(), fmt.Sprintf("the row of %q in automation_rollouts cannot be read", name))
			}
			if diff := cmp.Diff(map[string]bool{"plan": true, "stage": true, "watch": true, "nulls": true}, bad); diff != "" {
				t.Errorf("%v: %s", err, diff)
			}
		}
		if n := strings.Count(out.String(), "a rollout cannot be looked at"); n != 4 {
			t.Errorf("%d alerts, want one each:\n%s", n, out.String())
		}
		list, err := l.List(t.Context())
		if len(list) != 1 || list[0].Name != flag || err == nil {
			t.Errorf("%+v, %v", list, err)
		}
		if _, err := l.Get(t.Context(), "plan"); err == nil || !errors.As(err, new(*rollout.RowError)) || !errors.Is(err, rollout.ErrInvalid) {
			t.Errorf("%v", err)
		}
		l.stands(rollout.Running, rollout.ForSamples, 0, true, 0)
		l.sql(`DELETE FROM automation_rollouts WHERE name IS NULL OR name <> $1`, flag)
		if err := c.Tick(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// ctid picks one of the rows that are alike.
func ctid(l *lab) string {
	if l.sqlite() {
		return `rowid = (SELECT max(rowid) FROM automation_rollouts)`
	}
	return `ctid = (SELECT max(ctid) FROM automation_rollouts)`
}

func TestManyControllersTakeEachStepOnce(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		for i := range p.Stages {
			p.Stages[i].MinSamples = 0
		}
		l.create(p)
		l.do(rollout.Start)
		var all []*rollout.Controller
		for range 6 {
			all = append(all, l.controller(rollout.Options{}))
		}
		for range 4 {
			l.elapse(time.Hour)
			var g sync.WaitGroup
			for _, c := range all {
				g.Go(func() {
					if err := c.Tick(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			g.Wait()
		}
		l.happened(rollout.Created, rollout.Start, rollout.Advanced, rollout.Advanced, rollout.Advanced, rollout.Finished)
	})
}

func TestOfConcurrentActionsOneIsTaken(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		errs := make(chan error, 6)
		for range cap(errs) {
			go func() {
				_, err := l.Do(t.Context(), flag, rollout.Order{Action: rollout.Start, Actor: "alice"})
				errs <- err
			}()
		}
		started := 0
		for range cap(errs) {
			if err := <-errs; err == nil {
				started++
			} else if !errors.Is(err, rollout.ErrIllegal) {
				t.Error(err)
			}
		}
		if started != 1 {
			t.Errorf("started %d times", started)
		}
		l.happened(rollout.Created, rollout.Start)
	})
}

func TestEventsComeInPagesAndStay(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		l.create(hours())
		l.do(rollout.Start)
		l.do(rollout.Pause)
		page, err := l.Events(t.Context(), flag, 2, 0)
		if err != nil || len(page) != 2 || page[0].Action != rollout.Pause || page[1].Action != rollout.Start {
			t.Fatalf("%+v, %v", page, err)
		}
		page, err = l.Events(t.Context(), flag, 0, page[1].Seq)
		if err != nil || len(page) != 1 || page[0].Action != rollout.Created || page[0].From != "" || page[0].To != rollout.Pending || page[0].Actor != "alice" {
			t.Errorf("%+v, %v", page, err)
		}
		for _, change := range []string{`UPDATE automation_rollout_events SET actor = 'nobody'`, `DELETE FROM automation_rollout_events`} {
			if _, err := l.db.Exec(change); err == nil {
				t.Errorf("%s was not refused", change)
			}
		}
	})
}

func TestRunWorksUntilItsEnd(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		for i := range p.Stages {
			p.Stages[i].Hold, p.Stages[i].MinSamples = 30*time.Millisecond, 1
		}
		l.create(p)
		l.do(rollout.Start)
		c := l.controller(rollout.Options{Interval: 10 * time.Millisecond, UserPerMinute: 255})
		rec := c.Recorder(flag)
		stop := l.run(c)
		user := 0
		until(t, "the plan is over", func() bool {
			user++
			rec.Record(rollout.Exposed, rollout.Success, fmt.Sprint(user), 0, 0)
			return l.status().State == rollout.Completed
		})
		stop()
		l.do(rollout.Restart)
		// The last counts are handed in at the end.
		slow := l.controller(rollout.Options{UserPerMinute: 255})
		rec = slow.Recorder(flag)
		if err := slow.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop = l.run(slow)
		until(t, "it counts", func() bool {
			rec.Record(rollout.Exposed, rollout.Success, "7", 0, 0)
			rec.Record(rollout.Exposed, rollout.CallerError, "7", 0, 0)
			return true
		})
		stop()
		if got := l.status().Evidence.Exposed; got.Outcomes != 1 || got.Ignored != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestATripIsToldOf(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		p := hours()
		p.OnBreach = rollout.Notify
		l.create(p)
		l.do(rollout.Start)
		var out bytes.Buffer
		c := l.controller(rollout.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		rec := c.Recorder(flag)
		for i := range 20 { // before it knows of a rollout
			rec.Record(rollout.Exposed, rollout.Failure, fmt.Sprint(i), 0, 0)
		}
		if !rec.Tripped() {
			t.Error("not tripped")
		}
		for range 3 {
			if err := c.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		l.happened(rollout.Created, rollout.Start, rollout.Tripped)
		if e := l.events()[2]; !strings.HasPrefix(e.Actor, "replica:") || !strings.HasPrefix(e.Detail, "at least 12 of a replica's last 20 requests failed") || e.To != rollout.Running {
			t.Errorf("%+v", e)
		}
		if n := strings.Count(out.String(), "this replica does without the feature"); n != 1 {
			t.Errorf("%d alerts:\n%s", n, out.String())
		}
	})
}

func TestWithoutTheDatabaseEverythingSaysSo(t *testing.T) {
	l := newLab(t, lite(t))
	var out bytes.Buffer
	l.Controller = l.controller(rollout.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	l.create(hours())
	l.do(rollout.Start)
	l.Recorder(flag)
	if err := l.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.db.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"tick":    func() error { return l.Tick(ctx) },
		"again":   func() error { return l.Tick(ctx) },
		"get":     func() error { _, err := l.Get(ctx, flag); return err },
		"list":    func() error { _, err := l.List(ctx); return err },
		"events":  func() error { _, err := l.Events(ctx, flag, 1, 0); return err },
		"create":  func() error { _, err := l.Create(ctx, flag, hours(), "a"); return err },
		"do":      func() error { _, err := l.Do(ctx, flag, rollout.Order{Action: rollout.Pause, Actor: "a"}); return err },
		"preview": func() error { _, err := l.Preview(ctx, flag); return err },
		"report":  func() error { _, err := l.Report(ctx, flag, rollout.Goals{}); return err },
	} {
		if err := call(); !errors.Is(err, rollout.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d alerts:\n%s", n, out.String())
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	l.Run(cancelled) // ends
}
