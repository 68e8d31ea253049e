package rollout

import (
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
)

// fleet simulates one stage: it counts requests as replicas and the database do.
type fleet struct {
	plan     Plan
	memory   memory
	evidence Evidence
	at       time.Time
	failed   map[failedUser][]time.Time // the minutes in which a failure of the user counts
}

type failedUser struct {
	kind failureKind
	user int
}

func newFleet() *fleet {
	return &fleet{plan: Plan{}.withDefaults(), // without limits of times, which would make the simulation slower
		at: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC), failed: map[failedUser][]time.Time{}}
}

// request counts one request of the exposed arm. It simulates the databases' rule,
// which TestTick_CountsAUsersFailuresOnceAMinute tests.
func (f *fleet) request(user int, o Outcome) {
	kind := noFailure
	switch o {
	case OutcomeFailure:
		kind = kindFailure
	case OutcomeProviderFailure:
		kind = kindProvider
	}
	if kind != noFailure {
		key, minute := failedUser{kind, user}, f.at.Truncate(time.Minute)
		counted := slices.DeleteFunc(f.failed[key], func(t time.Time) bool { return f.at.Sub(t) >= time.Hour })
		if f.failed[key] = counted; slices.Contains(counted, minute) || len(counted) >= failuresPerHour {
			return
		}
		f.failed[key] = append(counted, minute)
		f.evidence.Exposed.Failures++
		if kind == kindProvider {
			f.evidence.Exposed.ProviderFailures++
		}
	}
	f.evidence.Exposed.Outcomes++
}

// control counts one request of the control arm.
func (f *fleet) control(failed bool) {
	f.evidence.Control.Outcomes++
	if failed {
		f.evidence.Control.Failures++
		f.evidence.Control.ProviderFailures++
	}
}

// evaluate lets time pass and reports whether there is a breach.
func (f *fleet) evaluate(t *testing.T, step time.Duration) bool {
	f.at = f.at.Add(step)
	m, found, err := f.memory.update(f.plan, f.evidence, f.at, func(gate int, since time.Time) (int64, error) {
		users := map[int]bool{}
		for key, minutes := range f.failed {
			if slices.Contains(gateKinds[gate], key.kind) && slices.ContainsFunc(minutes, func(t time.Time) bool { return !t.Before(since.Truncate(time.Minute)) }) {
				users[key.user] = true
			}
		}
		return int64(len(users)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.memory = m
	return found.breach
}

// arrivals returns a random number of requests in a step, at a rate per minute.
func arrivals(r *rand.Rand, perMinute float64, step time.Duration) (n int) {
	const slots = 50
	for range slots {
		if r.Float64() < perMinute*step.Minutes()/slots {
			n++
		}
	}
	return n
}

// rolledBack runs stages of 24 hours and returns the share of them that had a
// breach. Traffic makes the requests of one step.
func rolledBack(t *testing.T, stages int, traffic func(f *fleet, r *rand.Rand, elapsed, step time.Duration)) float64 {
	t.Helper()
	const step = 30 * time.Second
	if os.Getenv("AUTOMATION_TEST_LONG") == "1" {
		stages *= 10
	}
	n := 0
	for i := range stages {
		r, f := rand.New(rand.NewPCG(13, uint64(i))), newFleet()
		for elapsed := time.Duration(0); elapsed < 24*time.Hour; elapsed += step {
			traffic(f, r, elapsed, step)
			if f.evaluate(t, step) {
				n++
				break
			}
		}
	}
	return float64(n) / float64(stages)
}

const population = 1000 // users, of whom one is chosen at random for each request

func outcomeAt(r *rand.Rand, rate float64, o Outcome) Outcome {
	if r.Float64() < rate {
		return o
	}
	return OutcomeSuccess
}

func TestSimulation_RollsBackNoHealthyStage(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("simulates 1,400 days of 24 hours")
	}
	independent := func(rate float64) func(*fleet, *rand.Rand, time.Duration, time.Duration) {
		return func(f *fleet, r *rand.Rand, _, step time.Duration) {
			for range arrivals(r, 20, step) {
				f.request(r.IntN(population), outcomeAt(r, rate, OutcomeFailure))
			}
		}
	}
	// In one minute of each hour all requests fail, with the given cause; at other
	// times the feature fails in 1 %. The mean rate is 2.65 %.
	outages := func(perMinute float64, control bool, cause Outcome) func(*fleet, *rand.Rand, time.Duration, time.Duration) {
		return func(f *fleet, r *rand.Rand, elapsed, step time.Duration) {
			outage := (elapsed+17*time.Second).Truncate(time.Second)%time.Hour < time.Minute && elapsed > time.Minute
			for range arrivals(r, perMinute, step) {
				o := outcomeAt(r, .01, OutcomeFailure)
				if outage {
					o = cause
				}
				f.request(r.IntN(population), o)
			}
			if control {
				for range arrivals(r, perMinute, step) {
					f.control(outage)
				}
			}
		}
	}
	oneUser := func(background float64) func(*fleet, *rand.Rand, time.Duration, time.Duration) {
		return func(f *fleet, r *rand.Rand, _, step time.Duration) {
			for range arrivals(r, 15, step) { // five a minute on each of three replicas
				f.request(-1, OutcomeFailure)
			}
			for range arrivals(r, 20, step) {
				f.request(r.IntN(population), outcomeAt(r, background, OutcomeFailure))
			}
		}
	}
	for _, c := range []struct {
		name    string
		traffic func(*fleet, *rand.Rand, time.Duration, time.Duration)
		stages  int
		limit   float64 // of the share that is rolled back
	}{
		{"independent failures of 3 %", independent(.03), 200, .01},
		{"independent failures of 4.5 %", independent(.045), 200, .01},
		{"independent failures of 5 %", independent(.05), 200, .01},
		{"hourly outages of the provider at 20 a minute with a control arm", outages(20, true, OutcomeProviderFailure), 100, .01},
		{"hourly outages of the provider at 20 a minute without a control arm", outages(20, false, OutcomeProviderFailure), 100, .01},
		{"hourly outages of the provider at 100 a minute with a control arm", outages(100, true, OutcomeProviderFailure), 100, .01},
		{"hourly outages of the provider at 100 a minute without a control arm", outages(100, false, OutcomeProviderFailure), 100, .01},
		{"hourly outages counted as the feature's own failures at 100 a minute", outages(100, false, OutcomeFailure), 100, .01},
		{"one user who always fails among healthy users", oneUser(0), 100, 0},
		{"one user who always fails among users with 1 % failures", oneUser(.01), 100, 0},
		{"one user who always fails among users with 3 % failures", oneUser(.03), 100, .01},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := rolledBack(t, c.stages, c.traffic)
			t.Logf("rolled back %.2f %% of %d stages", 100*got, c.stages)
			if got > c.limit {
				t.Errorf("rolled back %.2f %% of %d stages, want at most %.0f %%", 100*got, c.stages, 100*c.limit)
			}
		})
	}
}

func TestSimulation_CatchesFailingStages(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("simulates 2,750 stages")
	}
	many := func(f *fleet, r *rand.Rand, rate float64, step time.Duration) {
		for range arrivals(r, 20, step) {
			f.request(r.IntN(population), outcomeAt(r, rate, OutcomeFailure))
		}
	}
	five := func(f *fleet, r *rand.Rand, rate float64, step time.Duration) {
		for range arrivals(r, 20, step) {
			user, o := r.IntN(20), OutcomeSuccess
			if user < 5 {
				o = outcomeAt(r, rate, OutcomeFailure)
			}
			f.request(user, o)
		}
	}
	for _, c := range []struct {
		name    string
		healthy time.Duration
		rate    float64
		traffic func(*fleet, *rand.Rand, float64, time.Duration)
		stages  int
		median  time.Duration
	}{
		{"20 % from the beginning", 0, .2, many, 500, 5 * time.Minute},
		{"60 % from the beginning", 0, .6, many, 500, 2 * time.Minute},
		{"20 % after ten healthy minutes", 10 * time.Minute, .2, many, 500, 5 * time.Minute},
		{"60 % after ten healthy minutes", 10 * time.Minute, .6, many, 500, 2 * time.Minute},
		{"20 % after a healthy day", 24 * time.Hour, .2, many, 200, 5 * time.Minute},
		{"60 % after a healthy day", 24 * time.Hour, .6, many, 50, 2 * time.Minute},
		{"five users of twenty who always fail", 0, 1, five, 500, 5 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var took []time.Duration
			early := 0
			for i := range c.stages {
				r, f := rand.New(rand.NewPCG(15, uint64(i))), newFleet()
				const step = 2 * time.Second
				healthy := c.healthy + time.Duration(r.IntN(30))*time.Second // so that failures begin anywhere in a window
				elapsed := time.Duration(0)
				for elapsed < healthy {
					step := step
					if healthy-elapsed > 10*time.Minute {
						step = time.Minute
					}
					many(f, r, .01, step)
					elapsed += step
					if f.evaluate(t, step) {
						early++
					}
				}
				begun := f.at
				for f.at.Sub(begun) < time.Hour {
					c.traffic(f, r, c.rate, step)
					if f.evaluate(t, step) {
						took = append(took, f.at.Sub(begun)+step) // counts are flushed up to one interval later
						break
					}
				}
			}
			slices.Sort(took)
			if share := float64(len(took)) / float64(c.stages); share < .99 {
				t.Fatalf("caught %.1f %% of the stages within an hour, want at least 99 %%", 100*share)
			}
			at := func(share float64) time.Duration { return took[int(math.Ceil(share*float64(len(took))))-1] }
			t.Logf("caught after %v in the median, %v in 90 %%, %v in 99 %%; %d rolled back while healthy", at(.5), at(.9), at(.99), early)
			if at(.5) > c.median || early > max(c.stages/100, 1) {
				t.Errorf("caught after %v in the median, want at most %v; %d rolled back while healthy, want at most %d", at(.5), c.median, early, max(c.stages/100, 1))
			}
		})
	}
}
