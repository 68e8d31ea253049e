package rollout

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// clock is one that the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func bare(t testing.TB, o Options) (*Controller, *clock) {
	t.Helper()
	at := &clock{t: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)}
	o.Now = at.now
	c, err := NewOn(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	return c, at
}

func TestRecord(t *testing.T) {
	c, _ := bare(t, Options{})
	r := c.Recorder("x")
	if r != c.Recorder("x") || r == c.Recorder("y") {
		t.Error("a name has more than one recorder, or two have one")
	}
	r.Record(Exposed, Success, "before the bake", time.Second, 0)
	r.watch(&bake{id: 1}, Plan{LatencyP95: time.Second, DatabaseP95: 10 * time.Millisecond})
	for _, one := range []struct {
		arm         Arm
		outcome     Outcome
		latency, db time.Duration
	}{
		{Exposed, Success, time.Second, 10 * time.Millisecond},
		{Exposed, Failure, time.Second + 1, 11 * time.Millisecond},
		{Exposed, Success, -time.Hour, -time.Hour},
		{Exposed, CallerError, time.Hour, time.Hour},
		{Exposed, HostError, time.Hour, time.Hour},
		{Control, Success, 0, 0},
		{Control, CallerError, 0, 0},
		{arms, Success, time.Hour, time.Hour},
		{Exposed, outcomes, time.Hour, time.Hour},
	} {
		r.Record(one.arm, one.outcome, "u", one.latency, one.db)
	}
	tally := r.tally.Load()
	want := Counts{Outcomes: 3, Failures: 1, Ignored: 2, Slow: 1, DatabaseSlow: 1, LatencyUS: 2_000_000, DatabaseUS: 21_000}
	if diff := cmp.Diff(want, tally.arms[Exposed].counts()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Counts{Outcomes: 1, Ignored: 1}, tally.arms[Control].counts()); diff != "" {
		t.Error(diff)
	}
	// The same bake goes on; another begins at nothing; none counts nothing.
	r.watch(&bake{id: 1}, Plan{})
	if r.tally.Load() != tally {
		t.Error("the same bake has begun anew")
	}
	r.watch(&bake{id: 2}, Plan{})
	r.Record(Exposed, Success, "v", time.Hour, time.Hour) // no gates
	if diff := cmp.Diff(Counts{Outcomes: 1, LatencyUS: 3_600_000_000, DatabaseUS: 3_600_000_000}, r.tally.Load().arms[Exposed].counts()); diff != "" {
		t.Error(diff)
	}
	r.watch(nil, Plan{})
	r.Record(Exposed, CallerError, "w", 0, 0)
	if r.tally.Load() != nil {
		t.Error("counts without a bake")
	}
}

func TestOneUserContributesSoManyOutcomesAMinute(t *testing.T) {
	c, at := bare(t, Options{UserPerMinute: 3})
	r := c.Recorder("x")
	r.watch(&bake{id: 1}, Plan{})
	c.beginMinute()
	contribute := func(want int64) {
		t.Helper()
		before := r.tally.Load().arms[Exposed].counts().Outcomes
		for range 100 {
			r.Record(Exposed, Failure, "loud", 0, 0)
		}
		if got := r.tally.Load().arms[Exposed].counts().Outcomes - before; got != want {
			t.Errorf("%d outcomes count, want %d", got, want)
		}
	}
	contribute(3)
	at.add(59 * time.Second)
	c.beginMinute()
	contribute(0)
	r.Record(Exposed, Failure, "quiet", 0, 0)
	if got := r.tally.Load().arms[Exposed].counts().Outcomes; got != 4 {
		t.Errorf("another user does not count: %d", got)
	}
	at.add(time.Second)
	c.beginMinute()
	contribute(3)
}

func TestConcurrentOutcomesAllCount(t *testing.T) {
	c, _ := bare(t, Options{UserPerMinute: 255})
	r := c.Recorder("x")
	r.watch(&bake{id: 1}, Plan{})
	var g sync.WaitGroup
	for w := range 8 {
		g.Go(func() {
			for i := range 1000 {
				r.Record(Exposed, Outcome(i%2), strconv.Itoa(w*1000+i), time.Millisecond, 0)
			}
		})
	}
	g.Go(func() {
		for range 1000 {
			if n := r.tally.Load().arms[Exposed].counts(); n.Failures > n.Outcomes {
				t.Errorf("%+v", n)
			}
		}
	})
	g.Wait()
	if n := r.tally.Load().arms[Exposed].counts(); n.Outcomes != 8000 || n.Failures != 4000 {
		t.Errorf("%+v", n)
	}
}

// on is a decider for which everybody has the feature.
type on struct{ version int64 }

func (o *on) Decide(string, string) flags.Decision {
	return flags.Decision{On: true, Reason: flags.ReasonInPercentage, Version: o.version}
}

func TestAReplicaTakesItselfOut(t *testing.T) {
	type setup struct {
		c     *Controller
		r     *Recorder
		d     flags.Decider
		inner *on
		at    *clock
		user  int
	}
	begin := func() *setup {
		s := &setup{inner: &on{version: 3}}
		s.c, s.at = bare(t, Options{})
		s.r, s.d = s.c.Recorder("x"), s.c.Decider(s.inner)
		return s
	}
	record := func(s *setup, a Arm, o Outcome, n int) {
		for range n {
			s.user++
			s.r.Record(a, o, strconv.Itoa(s.user), 0, 0)
		}
	}
	is := func(s *setup, want bool) {
		t.Helper()
		d := s.d.Decide("x", "1")
		if d.On == want || s.r.Tripped() != want || want && d.Reason != flags.ReasonMasterOff {
			t.Errorf("%+v, tripped %t; want tripped %t", d, s.r.Tripped(), want)
		}
		if other := s.d.Decide("y", "1"); !other.On {
			t.Errorf("another flag: %+v", other)
		}
	}
	t.Run("at twelve failures among twenty", func(t *testing.T) {
		s := begin()
		record(s, Exposed, Failure, 11)
		record(s, Exposed, Success, 8)
		is(s, false)
		record(s, Exposed, Failure, 1)
		is(s, true)
	})
	t.Run("not on fewer than twenty outcomes", func(t *testing.T) {
		s := begin()
		record(s, Exposed, Failure, 19)
		is(s, false)
	})
	t.Run("not for others' errors, nor the control arm's", func(t *testing.T) {
		s := begin()
		record(s, Exposed, CallerError, 50)
		record(s, Exposed, HostError, 50)
		record(s, Control, Failure, 50)
		is(s, false)
	})
	t.Run("not for one user's failures", func(t *testing.T) {
		s := begin()
		for range 100 {
			s.r.Record(Exposed, Failure, "loud", 0, 0)
		}
		is(s, false)
	})
	t.Run("not when the control arm fails as well", func(t *testing.T) {
		s := begin()
		record(s, Control, Failure, 8)
		record(s, Control, Success, 12)
		record(s, Exposed, Failure, 30)
		is(s, false)
	})
	t.Run("and comes back after the cool-down", func(t *testing.T) {
		s := begin()
		record(s, Exposed, Failure, 20)
		is(s, true)
		s.at.add(5*time.Minute - 1)
		is(s, true)
		s.at.add(1)
		is(s, false)
		record(s, Exposed, Failure, 19)
		is(s, false)
		record(s, Exposed, Failure, 1)
		is(s, true)
	})
	t.Run("and comes back when the flag is changed", func(t *testing.T) {
		s := begin()
		record(s, Exposed, Failure, 20)
		is(s, true)
		s.inner.version = 4
		is(s, false)
		record(s, Exposed, Failure, 20)
		is(s, true)
	})
	t.Run("and leaves who is off as they are", func(t *testing.T) {
		s := begin()
		record(s, Exposed, Failure, 20)
		s.d = s.c.Decider(off{})
		if d := s.d.Decide("x", "1"); d.Reason != flags.ReasonDisabled {
			t.Errorf("%+v", d)
		}
	})
}

type off struct{}

func (off) Decide(string, string) flags.Decision { return flags.Decision{Reason: flags.ReasonDisabled} }

func TestArmOf(t *testing.T) {
	for _, c := range []struct {
		d    flags.Decision
		want Arm
		ok   bool
	}{
		{flags.Decision{On: true, Reason: flags.ReasonUserEnabled}, Exposed, true},
		{flags.Decision{On: true, Reason: flags.ReasonInPercentage}, Exposed, true},
		{flags.Decision{Reason: flags.ReasonOutsidePercentage}, Control, true},
		{flags.Decision{Reason: flags.ReasonUserDisabled}, 0, false},
		{flags.Decision{Reason: flags.ReasonDisabled}, 0, false},
		{flags.Decision{Reason: flags.ReasonMasterOff}, 0, false},
		{flags.Decision{}, 0, false},
	} {
		if arm, ok := ArmOf(c.d); ok != c.ok || ok && arm != c.want {
			t.Errorf("%+v: %v, %t", c.d, arm, ok)
		}
	}
}

func TestOptionsAreCheckedTogether(t *testing.T) {
	_, err := NewOn(nil, Options{Interval: -1, UserPerMinute: 256, CoolDown: -1, Webhooks: []Webhook{
		{Name: "a", URL: "ftp://user:pass@x/", Secret: "too-short"}, {Name: "a", URL: "https://x/", Secret: "0123456789abcdef"}}})
	want := `rollout: Options.UserPerMinute is 256, it must be 1 to 255
rollout: Options.Interval is -1ns, it must be above 0
rollout: Options.CoolDown is -1ns, it must be above 0
rollout: Options.Webhooks[0].URL must be one of http or https
rollout: Options.Webhooks[0].Secret must have at least 16 bytes
rollout: Options.Webhooks[1].Name must be there, and another for each`
	if err == nil || err.Error() != want {
		t.Error(cmp.Diff(want, err.Error()))
	}
	if s := (Webhook{Name: "a", URL: "https://token@x", Secret: "s"}).String(); s != "webhook a" {
		t.Error(s)
	}
}

func BenchmarkRecord(b *testing.B) {
	c, _ := bare(b, Options{UserPerMinute: 255})
	r := c.Recorder("x")
	r.watch(&bake{id: 1}, DefaultPlan())
	ids := make([]string, 4096)
	for i := range ids {
		ids[i] = "user-" + strconv.Itoa(i)
	}
	b.Run("one at a time", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i++; i%100_000 == 0 {
				r.caps.minute.Add(1)
			}
			r.Record(Exposed, Success, ids[i%len(ids)], time.Millisecond, time.Microsecond)
		}
	})
	b.Run("in parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if i%100_000 == 0 {
					r.caps.minute.Add(1)
				}
				r.Record(Exposed, Success, ids[i%len(ids)], time.Millisecond, time.Microsecond)
			}
		})
	})
}

func TestRecordAllocatesNothing(t *testing.T) {
	c, _ := bare(t, Options{UserPerMinute: 255})
	r := c.Recorder("x")
	r.watch(&bake{id: 1}, DefaultPlan())
	d := c.Decider(&on{})
	if n := testing.AllocsPerRun(100, func() {
		r.Record(Exposed, Failure, "u", time.Hour, time.Hour)
		d.Decide("x", "u")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPassesEndWithTheContext(t *testing.T) {
	c, _ := bare(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.loop(ctx, func() time.Duration { t.Error("a pass after the end"); return 0 })
}
