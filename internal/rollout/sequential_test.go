package rollout

import (
	"math"
	"testing"
	"time"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

// logE is the log of the plain e-process at a limit of 5 %, all of whose weight
// is on the test that begins with the first outcome.
func logE(n, bad int64) float64 {
	sum := math.Inf(-1)
	for i := range alternatives {
		sum = logAdd(sum, logGain(alternative(i, .05), .05, n, bad)-math.Log(float64(len(alternatives))))
	}
	return sum
}

func TestSequential_IsTheMeanOfItsBets(t *testing.T) {
	for _, c := range []struct{ n, bad int64 }{{0, 0}, {3, 3}, {20, 1}, {20, 12}, {200, 9}, {300, 60}} {
		sum := 0.0
		for _, p := range []float64{.06, .075, .1, .15, .25, .5} {
			sum += math.Pow(p/.05, float64(c.bad)) * math.Pow((1-p)/.95, float64(c.n-c.bad)) / 6
		}
		if got := logE(c.n, c.bad); !near(got, math.Log(sum)) {
			t.Errorf("%d of %d: %v, want %v", c.bad, c.n, got, math.Log(sum))
		}
	}
	if got := logE(10_000_000, 400_000); math.IsNaN(got) || math.IsInf(got, 0) {
		t.Errorf("ten million outcomes: %v", got)
	}
	for _, limit := range []float64{.0001, .01, .5} {
		for i := range alternatives {
			if p := alternative(i, limit); p <= limit || p >= 1 {
				t.Errorf("limit %v: bets on %v", limit, p)
			}
		}
	}
}

// What makes the promise true: whatever is bet, nothing is won on average where
// the rate is the limit, so the mean is the weight of the tests that have begun.
// All ways that 12 outcomes can go, three a look.
func TestSequential_GainsNothingOnAverageAtTheLimit(t *testing.T) {
	const limit, n, perLook, pause = .05, 12, 3, 30 * time.Second
	mean := 0.0
	for way := range 1 << n {
		chance := 1.0
		var e *eValues
		for look := range n / perLook {
			var bad int64
			for i := range perLook {
				if way>>(look*perLook+i)&1 == 1 {
					bad++
					chance *= limit
				} else {
					chance *= 1 - limit
				}
			}
			e = e.next(limit, pause, perLook, bad)
		}
		mean += chance * math.Exp(e.log())
	}
	if want := 1 - lateShare + lateShare*(n/perLook*pause).Hours()/24; !near(mean, want) {
		t.Errorf("on average %v, want %v", mean, want)
	}
}

// The tests' weights are 1 in the first day, and less than that in any other.
func TestSequential_SpendsOneADay(t *testing.T) {
	late := 0.0
	for _, w := range lateWeights {
		late += w
	}
	if !near(late, 1) {
		t.Errorf("late tests weigh the alternatives with %v in all, want 1", late)
	}
	var e *eValues
	for range 24 * 60 {
		e = e.next(.05, time.Minute, 0, 0)
	}
	if spent := math.Exp(e.log()); !near(spent, 1) {
		t.Errorf("after a day without outcomes %v, want 1", spent)
	}
	before := math.Exp(e.log())
	if spent := math.Exp(e.next(.05, 24*time.Hour, 0, 0).log()) - before; spent > 1.0/24/60 {
		t.Errorf("an evaluation after a day's absence spends %v, at most a minute's wanted", spent)
	}
}

func TestSequential_KeepsTheTestFromTheBeginning(t *testing.T) {
	var e *eValues
	for range 10 {
		e = e.next(.05, time.Minute, 20, 4)
	}
	first := logE(200, 40) + math.Log(1-lateShare)
	if e.log() < first {
		t.Errorf("%v, at least %v is due to the first test", e.log(), first)
	}
}
