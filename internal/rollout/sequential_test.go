package rollout

import (
	"math"
	"testing"
	"time"
)

func isNear(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

// logE returns the log of the e-value at a limit of 5 % if there were only the test
// that begins with the first outcome.
func logE(n, bad int64) float64 {
	sum := math.Inf(-1)
	for i := range alternatives {
		sum = logAdd(sum, logGain(alternative(i, .05), .05, n, bad)-math.Log(float64(len(alternatives))))
	}
	return sum
}

func TestSequential_IsTheMeanOverItsAlternatives(t *testing.T) {
	for _, c := range []struct{ n, bad int64 }{{0, 0}, {3, 3}, {20, 1}, {20, 12}, {200, 9}, {300, 60}} {
		sum := 0.0
		for _, p := range []float64{.06, .075, .1, .15, .25, .5} {
			sum += math.Pow(p/.05, float64(c.bad)) * math.Pow((1-p)/.95, float64(c.n-c.bad)) / 6
		}
		if got := logE(c.n, c.bad); !isNear(got, math.Log(sum)) {
			t.Errorf("log of the e-value after %d bad of %d outcomes: %v, want %v", c.bad, c.n, got, math.Log(sum))
		}
	}
	if got := logE(10_000_000, 400_000); math.IsNaN(got) || math.IsInf(got, 0) {
		t.Errorf("log of the e-value after ten million outcomes: %v, want a finite number", got)
	}
	for _, limit := range []float64{.0001, .01, .5} {
		for i := range alternatives {
			if p := alternative(i, limit); p <= limit || p >= 1 {
				t.Errorf("limit %v has the alternative %v, want one between the limit and 1", limit, p)
			}
		}
	}
}

// The bound on false alarms rests on this: if the rate is the limit, the mean of
// the sum is the weight of the tests that have begun. The test takes the mean over
// all sequences of 12 outcomes, with an evaluation after every third.
func TestSequential_HasAMeanOfItsWeightAtTheLimit(t *testing.T) {
	const limit, n, perEvaluation, pause = .05, 12, 3, 30 * time.Second
	mean := 0.0
	for sequence := range 1 << n { // a set bit is a bad outcome
		probability := 1.0
		var e *eValues
		for evaluation := range n / perEvaluation {
			var bad int64
			for i := range perEvaluation {
				if sequence>>(evaluation*perEvaluation+i)&1 == 1 {
					bad++
					probability *= limit
				} else {
					probability *= 1 - limit
				}
			}
			e = e.next(limit, pause, perEvaluation, bad)
		}
		mean += probability * math.Exp(e.log())
	}
	if want := 1 - lateShare + lateShare*(n/perEvaluation*pause).Hours()/24; !isNear(mean, want) {
		t.Errorf("the mean of the sum is %v, want %v", mean, want)
	}
}

// The weights of the tests add up to 1 on the first day, and to lateShare on others.
func TestSequential_SpendsAWeightOfOneADay(t *testing.T) {
	late := 0.0
	for _, w := range lateWeights {
		late += w
	}
	if !isNear(late, 1) {
		t.Errorf("lateWeights add up to %v, want 1", late)
	}
	var e *eValues
	for range 24 * 60 {
		e = e.next(.05, time.Minute, 0, 0)
	}
	if spent := math.Exp(e.log()); !isNear(spent, 1) {
		t.Errorf("the weight after a day without outcomes is %v, want 1", spent)
	}
	before := math.Exp(e.log())
	if spent := math.Exp(e.next(.05, 24*time.Hour, 0, 0).log()) - before; spent > 1.0/24/60 {
		t.Errorf("an evaluation after a day's pause adds a weight of %v, want at most a minute's, %v", spent, 1.0/24/60)
	}
}

func TestSequential_KeepsTheTestFromTheBeginning(t *testing.T) {
	var e *eValues
	for range 10 {
		e = e.next(.05, time.Minute, 20, 4)
	}
	first := logE(200, 40) + math.Log(1-lateShare)
	if e.log() < first {
		t.Errorf("the log of the sum is %v, want at least that of the first test, %v", e.log(), first)
	}
}
