package rollout

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// clock is a clock that the test sets.
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

// newBare returns a controller without a database.
func newBare(t testing.TB) (*Controller, *clock) {
	t.Helper()
	at := &clock{t: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)}
	o := Options{Now: at.now}
	c, err := New(sqlx.NewDb(nil, "sqlite"), o)
	if err != nil {
		t.Fatal(err)
	}
	return c, at
}

func TestRecord_CountsByArmAndOutcome(t *testing.T) {
	c, _ := newBare(t)
	r := c.Recorder("x")
	if r != c.Recorder("x") || r == c.Recorder("y") {
		t.Error("want one recorder for each name: x has two, or x and y have the same")
	}
	r.Record(Sample{ArmExposed, OutcomeSuccess, "before the run", time.Second, 0})
	r.observe(&stageRun{id: 1}, Plan{LatencyP95: time.Second, DatabaseP95: 10 * time.Millisecond})
	for i, request := range []struct {
		arm         Arm
		outcome     Outcome
		latency, db time.Duration
	}{
		{ArmExposed, OutcomeSuccess, time.Second, 10 * time.Millisecond},
		{ArmExposed, OutcomeSuccess, time.Second + 1, 11 * time.Millisecond},
		{ArmExposed, OutcomeFailure, time.Second, 0},
		{ArmExposed, OutcomeProviderFailure, 0, 0},
		{ArmExposed, OutcomeSharedFailure, time.Hour, time.Hour},
		{ArmExposed, OutcomeSuccess, -time.Hour, -time.Hour},
		{ArmExposed, OutcomeIgnored, time.Hour, time.Hour},
		{ArmControl, OutcomeSuccess, 0, 0},
		{ArmControl, OutcomeSuccess, time.Second + 1, 0},
		{ArmControl, OutcomeFailure, 0, 0},
		{ArmControl, OutcomeProviderFailure, 0, 0},
		{ArmControl, OutcomeSharedFailure, 0, 0},
		{ArmControl, OutcomeIgnored, 0, 0},
		{arms, OutcomeSuccess, time.Hour, time.Hour},
		{ArmExposed, outcomes, time.Hour, time.Hour},
	} {
		r.Record(Sample{request.arm, request.outcome, strconv.Itoa(i), request.latency, request.db})
	}
	run := r.run.Load()
	want := Counts{Outcomes: 2, LatencyUS: 1_000_000, DatabaseUS: 10_000, SharedFailures: 1, Ignored: 1}
	if diff := cmp.Diff(want, run.arms[ArmExposed].counts()); diff != "" {
		t.Errorf("the exposed arm (-want +got):\n%s", diff)
	}
	want = Counts{Outcomes: 4, Failures: 2, ProviderFailures: 1, Slow: 1, LatencyUS: 1_000_000, SharedFailures: 1, Ignored: 1}
	if diff := cmp.Diff(want, run.arms[ArmControl].counts()); diff != "" {
		t.Errorf("the control arm (-want +got):\n%s", diff)
	}
	kinds := map[failureKind]timing{}
	for f, t := range run.pending {
		kinds[f.kind] = t
	}
	if diff := cmp.Diff(map[failureKind]timing{kindFailure: {latencyUS: 1_000_000}, kindProvider: {}, kindSlow: {1_000_000, 11_000, true}}, kinds, cmp.AllowUnexported(timing{})); diff != "" {
		t.Errorf("the failing users that a flush writes (-want +got):\n%s", diff)
	}
	t.Run("the same stage run continues", func(t *testing.T) {
		r.observe(&stageRun{id: 1}, Plan{})
		if r.run.Load() != run {
			t.Error("the counters were replaced")
		}
	})
	t.Run("another stage run begins with counts of 0", func(t *testing.T) {
		r.observe(&stageRun{id: 2}, Plan{})
		r.Record(Sample{ArmExposed, OutcomeSuccess, "v", time.Hour, time.Hour}) // the plan limits no times
		if diff := cmp.Diff(Counts{Outcomes: 1, LatencyUS: 3_600_000_000, DatabaseUS: 3_600_000_000}, r.run.Load().arms[ArmExposed].counts()); diff != "" {
			t.Errorf("the exposed arm (-want +got):\n%s", diff)
		}
	})
	t.Run("without a stage run nothing counts", func(t *testing.T) {
		r.observe(nil, Plan{})
		r.Record(Sample{ArmExposed, OutcomeIgnored, "w", 0, 0})
		if r.run.Load() != nil {
			t.Error("the recorder still counts")
		}
	})
}

func TestRecord_KeepsNoIDOfAFailingUser(t *testing.T) {
	c, _ := newBare(t)
	r := c.Recorder("x")
	hash := func(run int64, user string) string {
		r.observe(&stageRun{id: run}, Plan{})
		r.Record(Sample{ArmExposed, OutcomeFailure, user, 0, 0})
		for f := range r.run.Load().takePending() {
			return f.hash()
		}
		t.Fatal("nothing is pending")
		return ""
	}
	seven := hash(1, "7")
	r.run.Store(nil)
	if again := hash(1, "7"); again != seven || len(seven) != 16 {
		t.Errorf("one user has the hashes %q and %q, want the same 16 characters", seven, again)
	}
	if eight, other := hash(2, "8"), hash(3, "7"); eight == seven || other == seven {
		t.Errorf("hash %q, of another user %q, in another stage run %q; want three different ones", seven, eight, other)
	}
}

func TestRecord_BoundsPendingUsers(t *testing.T) {
	c, _ := newBare(t)
	r := c.Recorder("x")
	r.observe(&stageRun{id: 1}, Plan{})
	run := r.run.Load()
	for i := range maxPending + 1000 {
		run.addPending(kindFailure, strconv.Itoa(i), timing{})
	}
	taken := run.takePending()
	if len(taken) != maxPending || run.pending != nil {
		t.Errorf("%d users were taken and %d are left, want %d and none", len(taken), len(run.pending), maxPending)
	}
	run.addPending(kindFailure, "late", timing{})
	run.restorePending(taken)
	if len(run.pending) != maxPending+1 {
		t.Errorf("%d users are pending again, want %d", len(run.pending), maxPending+1)
	}
}

func TestRecord_BoundsWhatOneUserContributes(t *testing.T) {
	c, at := newBare(t)
	r := c.Recorder("x")
	r.observe(&stageRun{id: 1}, Plan{})
	beginMinute := func() {
		c.minute = uint64(at.now().Unix() / 60) // so that beginMinute deletes nothing from the database
		if err := c.beginMinute(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	beginMinute()
	contribute := func(want int64) {
		t.Helper()
		before := r.run.Load().arms[ArmControl].counts().Outcomes
		for range 100 {
			r.Record(Sample{ArmControl, OutcomeFailure, "loud", 0, 0})
		}
		if got := r.run.Load().arms[ArmControl].counts().Outcomes - before; got != want {
			t.Errorf("%d of 100 outcomes count, want %d", got, want)
		}
	}
	contribute(outcomesPerMinute)
	at.add(59 * time.Second)
	beginMinute()
	contribute(0)
	r.Record(Sample{ArmControl, OutcomeFailure, "quiet", 0, 0})
	if got := r.run.Load().arms[ArmControl].counts().Outcomes; got != outcomesPerMinute+1 {
		t.Errorf("with another user's outcome %d count, want %d", got, outcomesPerMinute+1)
	}
	at.add(time.Second)
	beginMinute()
	contribute(outcomesPerMinute)
}

func TestRecord_CountsConcurrentOutcomes(t *testing.T) {
	c, _ := newBare(t)
	r := c.Recorder("x")
	r.observe(&stageRun{id: 1}, Plan{})
	var g sync.WaitGroup
	for w := range 8 {
		g.Go(func() {
			for i := range 64 {
				r.Record(Sample{ArmControl, Outcome(i % 2), strconv.Itoa(w*64 + i), time.Millisecond, 0})
			}
		})
	}
	g.Go(func() {
		for range 1000 {
			if n := r.run.Load().arms[ArmControl].counts(); n.Failures > n.Outcomes {
				t.Errorf("%d failures of only %d outcomes", n.Failures, n.Outcomes)
			}
		}
	})
	g.Wait()
	if n := r.run.Load().arms[ArmControl].counts(); n.Outcomes != 512 || n.Failures != 256 {
		t.Errorf("in the end %d failures of %d outcomes, want 256 of 512", n.Failures, n.Outcomes)
	}
}

func TestArmOf_FollowsTheDecision(t *testing.T) {
	for _, c := range []struct {
		d    flags.Decision
		want Arm
		ok   bool
	}{
		{flags.Decision{On: true, Reason: flags.ReasonUserEnabled}, ArmExposed, true},
		{flags.Decision{On: true, Reason: flags.ReasonInPercentage}, ArmExposed, true},
		{flags.Decision{Reason: flags.ReasonOutsidePercentage}, ArmControl, true},
		{flags.Decision{Reason: flags.ReasonUserDisabled}, 0, false},
		{flags.Decision{Reason: flags.ReasonDisabled}, 0, false},
		{flags.Decision{Reason: flags.ReasonMasterOff}, 0, false},
		{flags.Decision{}, 0, false},
	} {
		if arm, ok := ArmOf(c.d); ok != c.ok || ok && arm != c.want {
			t.Errorf("arm of %+v: %v, %t; want %v, %t", c.d, arm, ok, c.want, c.ok)
		}
	}
}

func TestNew_NamesAllInvalidOptions(t *testing.T) {
	_, err := New(nil, Options{Interval: -1, MaxConns: -1, Webhooks: []Webhook{
		{Name: "a", URL: "ftp://user:pass@x/", Secret: "too-short"}, {Name: "a", URL: "https://x/", Secret: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}}})
	want := `rollout: Options.Webhooks[0].URL must be an http or https URL
rollout: Options.Webhooks[0].Secret must be "whsec_" and 24 to 64 bytes in base64: echo whsec_$(openssl rand -base64 32)
rollout: Options.Webhooks[1].Name must be unique, and have 1 to 200 bytes of UTF-8 without control characters
rollout: Options.Interval is -1ns, it must not be negative
rollout: Options.MaxConns is -1, it must not be negative`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("the error (-want +got):\n%s", diff)
	}
	if s := (Webhook{Name: "a", URL: "https://token@x", Secret: "s"}).String(); s != "webhook a" {
		t.Errorf("a webhook is written as %q, want its name alone", s)
	}
}

func BenchmarkRecord(b *testing.B) {
	c, _ := newBare(b)
	r := c.Recorder("x")
	r.observe(&stageRun{id: 1}, DefaultPlan())
	ids := make([]string, 4096)
	for i := range ids {
		ids[i] = "user-" + strconv.Itoa(i)
	}
	b.Run("one at a time", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i++; i%100_000 == 0 {
				r.users.minute.Add(1)
			}
			r.Record(Sample{ArmExposed, OutcomeSuccess, ids[i%len(ids)], time.Millisecond, time.Microsecond})
		}
	})
	b.Run("in parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if i%100_000 == 0 {
					r.users.minute.Add(1)
				}
				r.Record(Sample{ArmExposed, OutcomeSuccess, ids[i%len(ids)], time.Millisecond, time.Microsecond})
			}
		})
	})
}

func TestRecord_AllocatesNothingForASuccess(t *testing.T) {
	c, _ := newBare(t)
	r := c.Recorder("x")
	r.observe(&stageRun{id: 1}, DefaultPlan())
	if n := testing.AllocsPerRun(100, func() {
		r.Record(Sample{ArmExposed, OutcomeSuccess, "u", time.Second, time.Hour})
	}); n != 0 {
		t.Errorf("%v allocations for a success, want none", n)
	}
}
