package rollout

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

var start = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

// observed is a stage run to which the test adds evidence, a window at a time.
type observed struct {
	t     *testing.T
	plan  Plan
	m     memory
	e     Evidence
	at    time.Time
	users int64       // how many users have failures
	since []time.Time // the times since which update has counted users
}

func newObserved(t *testing.T) *observed {
	o := &observed{t: t, plan: DefaultPlan(), at: start, users: 100}
	o.update() // the first window begins here
	return o
}

func (o *observed) update() finding {
	o.t.Helper()
	// Between two evaluations the memory is JSON in the database.
	b, err := json.Marshal(o.m)
	if err != nil {
		o.t.Fatal(err)
	}
	o.m = memory{}
	if err := json.Unmarshal(b, &o.m); err != nil {
		o.t.Fatal(err)
	}
	m, f, err := o.m.update(o.plan, o.e, o.at, func(_ int, since time.Time) (int64, error) {
		o.since = append(o.since, since)
		return o.users, nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	o.m = m
	return f
}

// window adds the requests of half a minute.
func (o *observed) window(exposed, control Counts) finding {
	o.t.Helper()
	o.at = o.at.Add(windowMin)
	plus := func(a *Counts, b Counts) { *a = a.minus(Counts{}.minus(b)) }
	plus(&o.e.Exposed, exposed)
	plus(&o.e.Control, control)
	return o.update()
}

// windows adds the same window n times and returns what the last one found.
func (o *observed) windows(n int, exposed, control Counts) (f finding) {
	o.t.Helper()
	for range n {
		f = o.window(exposed, control)
	}
	return f
}

func failing(outcomes, failures int64) Counts { return Counts{Outcomes: outcomes, Failures: failures} }

func fromProvider(outcomes, failures int64) Counts {
	return Counts{Outcomes: outcomes, Failures: failures, ProviderFailures: failures}
}

func TestUpdate_NeedsARateInEachOfTheLastWindows(t *testing.T) {
	o := newObserved(t)
	if f := o.windows(3, failing(20, 12), Counts{}); f != (finding{}) {
		t.Fatalf("after a minute and a half: %+v, want no finding", f)
	}
	f := o.window(failing(20, 12), Counts{})
	if want := "48 of 80 requests failed in 2 minutes, 60.0 % where 5 % are allowed, for 100 users"; !f.breach || f.detail != want {
		t.Errorf("after two minutes: %+v, want the breach %s", f, want)
	}
	if diff := cmp.Diff([]time.Time{start}, o.since); diff != "" {
		t.Errorf("users are counted since (-want +got):\n%s", diff)
	}
	t.Run("a healthy window in between starts the two minutes again", func(t *testing.T) {
		o := newObserved(t)
		o.windows(3, failing(20, 12), Counts{})
		if f := o.window(failing(20, 1), Counts{}); f != (finding{}) {
			t.Errorf("after a healthy window: %+v, want no finding", f)
		}
		if f := o.windows(3, failing(20, 12), Counts{}); f != (finding{}) {
			t.Errorf("after three more failing windows: %+v, want no finding", f)
		}
		if f := o.window(failing(20, 12), Counts{}); !f.breach {
			t.Errorf("after four more failing windows: %+v, want a breach", f)
		}
	})
	t.Run("a window lasts until it has five requests", func(t *testing.T) {
		o := newObserved(t)
		if f := o.windows(15, failing(1, 1), Counts{}); f != (finding{}) {
			t.Errorf("after three windows: %+v, want no finding", f)
		}
		if f := o.windows(5, failing(1, 1), Counts{}); !f.breach || !strings.HasPrefix(f.detail, "20 of 20 requests failed in 10 minutes") {
			t.Errorf("after four windows: %+v, want a breach with 20 of 20 requests in 10 minutes", f)
		}
	})
}

// After a healthy day, some failures in a row once caused a rollback, whose detail
// said that 0.03 % failed where 5 % are allowed.
func TestUpdate_NeverQuotesARateBelowTheLimit(t *testing.T) {
	o := newObserved(t)
	o.windows(2880, failing(10, 0), Counts{})
	for range 3 {
		if f := o.window(failing(10, 9), Counts{}); f != (finding{}) {
			t.Fatalf("before four failing windows: %+v, want no finding", f)
		}
	}
	f := o.window(failing(10, 9), Counts{})
	if want := "36 of 40 requests failed in 2 minutes, 90.0 % where 5 % are allowed"; !f.breach || !strings.HasPrefix(f.detail, want) {
		t.Errorf("after four failing windows: %+v, want the breach %s", f, want)
	}
}

func TestUpdate_NeedsFailuresOfSeveralUsers(t *testing.T) {
	o := newObserved(t)
	o.users = 4
	f := o.windows(6, failing(20, 12), Counts{})
	want := finding{waiting: waitingUsers, detail: "48 of 80 requests failed in 2 minutes, 60.0 % where 5 % are allowed, but for only 4 users; a rollback needs 5"}
	if f != want {
		t.Errorf("with failures of four users: %+v, want %+v", f, want)
	}
	o.at = o.at.Add(2 * time.Second)
	if f := o.window(failing(20, 0), Counts{}); f != want {
		t.Errorf("while the test's alarm lasts: %+v, want %+v", f, want)
	}
	if f := o.windows(100, failing(20, 0), Counts{}); f != (finding{}) {
		t.Errorf("after 50 healthy minutes: %+v, want no finding", f)
	}
	o.users = 5
	if f := o.windows(5, failing(20, 12), Counts{}); !f.breach {
		t.Errorf("with failures of five users: %+v, want a breach", f)
	}
	o.plan.MinUsers, o.users = 1, 1
	if f := o.windows(5, failing(20, 12), Counts{}); !f.breach {
		t.Errorf("with one user and a MinUsers of 1: %+v, want a breach", f)
	}
	t.Run("an error of the count is returned", func(t *testing.T) {
		broken := errors.New("no such table")
		_, _, err := o.m.update(o.plan, o.e, o.at, func(int, time.Time) (int64, error) { return 0, broken })
		if !errors.Is(err, broken) {
			t.Errorf("update returns the error %v, want %v", err, broken)
		}
	})
}

func TestUpdate_CountsProviderFailuresOnlyBeyondTheControlArm(t *testing.T) {
	t.Run("the stage waits where both arms fail", func(t *testing.T) {
		o := newObserved(t)
		f := o.windows(5, fromProvider(20, 12), failing(200, 110))
		want := finding{waiting: waitingOutage, detail: "48 of 80 requests failed here or at their provider in 2 minutes, 60.0 % where 5 % are allowed, and so did 440 of 800 without the feature: the cause is elsewhere"}
		if f != want {
			t.Errorf("while both arms fail: %+v, want %+v", f, want)
		}
		if f := o.windows(200, fromProvider(20, 12), failing(200, 110)); f != want {
			t.Errorf("after both arms have failed for a long time: %+v, want %+v", f, want)
		}
		if f := o.windows(5, failing(20, 0), failing(200, 0)); f != (finding{}) {
			t.Errorf("when both arms are healthy again: %+v, want no finding", f)
		}
		if f := o.windows(8, fromProvider(20, 12), failing(200, 2)); !f.breach || !strings.Contains(f.detail, "60.0 % where 5 % are allowed and without the feature 1.0 %, for 100 users") {
			t.Errorf("when only the exposed arm fails: %+v, want a breach with the rates of both arms", f)
		}
	})
	t.Run("the stage waits without a control arm", func(t *testing.T) {
		o := newObserved(t)
		f := o.windows(200, fromProvider(20, 20), failing(0, 0))
		if want := (finding{waiting: waitingOutage, detail: "80 of 80 requests failed here or at their provider in 2 minutes, 100.0 % where 5 % are allowed, and there is no control arm to compare with"}); f != want {
			t.Errorf("without a control arm: %+v, want %+v", f, want)
		}
	})
	t.Run("an outage that ends for the control arm alone is the feature's", func(t *testing.T) {
		o := newObserved(t)
		o.windows(10, fromProvider(20, 12), failing(200, 110))
		if f := o.windows(9, fromProvider(20, 12), failing(200, 0)); !f.breach {
			t.Errorf("after the control arm recovered: %+v, want a breach", f)
		}
	})
	t.Run("the feature's own failures count during an outage", func(t *testing.T) {
		o := newObserved(t)
		o.windows(10, fromProvider(20, 12), failing(200, 110))
		if f := o.windows(6, Counts{Outcomes: 20, Failures: 18, ProviderFailures: 6}, failing(200, 60)); !f.breach || !strings.Contains(f.detail, "48 of 80 requests failed in 2 minutes") {
			t.Errorf("with own failures during an outage: %+v, want a breach with 48 of 80 requests", f)
		}
	})
}

func TestUpdate_WaitsWhileTheNodeOrTheDatabaseFails(t *testing.T) {
	o := newObserved(t)
	o.windows(10, failing(20, 0), Counts{})
	f := o.window(Counts{Outcomes: 2, SharedFailures: 18}, Counts{})
	if want := (finding{waiting: waitingOutage, detail: "lately 18 of 20 requests failed because of the node or the database, with or without the feature"}); f != want {
		t.Errorf("in an outage: %+v, want %+v", f, want)
	}
	if f := o.windows(1000, Counts{SharedFailures: 20}, Counts{}); f.breach || f.waiting != waitingOutage {
		t.Errorf("in a long outage: %+v, want the stage to wait", f)
	}
	o.window(failing(20, 0), Counts{})
	if f := o.windows(2, failing(20, 0), Counts{}); f != (finding{}) {
		t.Errorf("after the outage: %+v, want no finding", f)
	}
	if f := o.window(Counts{Outcomes: 20, SharedFailures: 4}, Counts{}); f != (finding{}) {
		t.Errorf("with four shared failures: %+v, want no finding", f)
	}
}

func TestUpdate_EvaluatesTimes(t *testing.T) {
	slow, fast := Counts{Outcomes: 20, Slow: 8}, Counts{Outcomes: 200, Slow: 1}
	for _, c := range []struct {
		name             string
		exposed, control Counts
		want             finding
	}{
		{"latency beyond the control arm's", slow, fast, finding{breach: true, detail: "32 of 80 requests took longer than the plan's latency in 2 minutes, 40.0 % where 5 % are allowed and without the feature 0.5 %, for 100 users"}},
		{"latency of both arms", slow, Counts{Outcomes: 200, Slow: 80}, finding{waiting: waitingOutage, detail: "32 of 80 requests took longer than the plan's latency in 2 minutes, 40.0 % where 5 % are allowed, and so did 320 of 800 without the feature: the cause is elsewhere"}},
		{"a slow database", Counts{Outcomes: 20, DatabaseSlow: 8}, fast, finding{waiting: waitingOutage, detail: "32 of 80 requests spent longer in the database than the plan allows in 2 minutes, 40.0 % where 5 % are allowed: the database is slow"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newObserved(t)
			o.plan.Limit = 20 * flags.Percent // must not affect times
			if f := o.windows(windows, c.exposed, c.control); f != c.want {
				t.Errorf("the finding is %+v, want %+v", f, c.want)
			}
			o = newObserved(t)
			o.plan.LatencyP95, o.plan.DatabaseP95 = 0, 0
			if f := o.windows(10, c.exposed, c.control); f != (finding{}) {
				t.Errorf("with a plan that limits no times: %+v, want no finding", f)
			}
		})
	}
}

func TestUpdate_StartsAgainAfterCountsWereDeleted(t *testing.T) {
	o := newObserved(t)
	o.windows(10, failing(20, 1), Counts{})
	o.e = Evidence{Exposed: failing(10, 9)}
	if f := o.update(); f != (finding{}) || o.m.Seen != o.e {
		t.Errorf("after the deletion: %+v, seen %+v; want no finding, seen %+v", f, o.m.Seen, o.e)
	}
	if f := o.windows(windows, failing(20, 12), Counts{}); !f.breach || !strings.HasPrefix(f.detail, "48 of 80") {
		t.Errorf("after two failing minutes: %+v, want a breach with 48 of 80", f)
	}
}

func TestCounts_Means(t *testing.T) {
	c := Counts{Outcomes: 4, Failures: 1, LatencyUS: 6000, DatabaseUS: 400}
	if c.ErrorRate() != .25 || c.Latency() != 1500*time.Microsecond || c.DatabaseTime() != 100*time.Microsecond {
		t.Errorf("error rate %v, latency %v, database time %v; want 0.25, 1.5ms, 100µs", c.ErrorRate(), c.Latency(), c.DatabaseTime())
	}
	if z := (Counts{}); z.ErrorRate() != 0 || z.Latency() != 0 || z.DatabaseTime() != 0 {
		t.Errorf("without outcomes: error rate %v, latency %v, database time %v; want 0", z.ErrorRate(), z.Latency(), z.DatabaseTime())
	}
	all := Counts{9, 8, 7, 6, 5, 4, 3, 2, 1}
	if diff := cmp.Diff(Counts{1, 1, 1, 1, 1, 1, 1, 1, 1}, all.minus(Counts{8, 7, 6, 5, 4, 3, 2, 1, 0})); diff != "" {
		t.Errorf("the difference of all fields (-want +got):\n%s", diff)
	}
}
