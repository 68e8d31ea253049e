package rollout

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
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

func TestTheEProcessIsTheMeanOfItsBets(t *testing.T) {
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
// the rate is the limit. All ways that 12 outcomes can go, three a look.
func TestBetsWinNothingOnAverageAtTheLimit(t *testing.T) {
	const limit, n, perLook = .05, 12, 3
	mean := 0.0
	for way := range 1 << n {
		chance := 1.0
		var l *logs
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
			l = l.next(limit, int64(look*perLook), perLook, bad)
		}
		unspent := lateShare * (1 - spent(n))
		mean += chance * (math.Exp(l.sum()) + unspent)
	}
	if !near(mean, 1) {
		t.Errorf("on average %v, want 1", mean)
	}
}

func TestHalfOfTheWeightIsTheEProcessFromTheBeginning(t *testing.T) {
	var l *logs
	for i := range int64(10) {
		l = l.next(.05, 20*i, 20, 4)
	}
	first := logE(200, 40) + math.Log(1-lateShare)
	if l.sum() < first {
		t.Errorf("%v, at least %v is due to the first test", l.sum(), first)
	}
}

func TestWilsonLower(t *testing.T) {
	// By hand: n 100, bad 20, z 3.0902: (.2+.04775−3.0902·sqrt(.0016+.00023873))/1.09549.
	if got := wilsonLower(100, 20); math.Abs(got-.10519) > 1e-4 {
		t.Errorf("20 of 100: %v", got)
	}
	if got := wilsonLower(0, 0); got != 0 {
		t.Errorf("0 of 0: %v", got)
	}
}

func counted(n, failures int64) Counts { return Counts{Outcomes: n, Failures: failures} }

func TestNoPolicyDecidesOnFewOutcomes(t *testing.T) {
	for _, policy := range []Policy{Sequential, Wilson, Point} {
		p := Plan{Policy: policy}.withDefaults()
		if _, f := (watch{}).look(p, Evidence{Exposed: counted(floor-1, floor-1)}); f.breach {
			t.Errorf("%s on %d outcomes: %s", policy, floor-1, f.detail)
		}
		if _, f := (watch{}).look(p, Evidence{Exposed: counted(floor, floor)}); !f.breach {
			t.Errorf("%s does not object to %d failures of %d", policy, floor, floor)
		}
	}
}

func TestGatesOnTimesAreKeptLikeTheErrorRate(t *testing.T) {
	slow := Evidence{Exposed: Counts{Outcomes: 100, Slow: 30}}
	db := Evidence{Exposed: Counts{Outcomes: 100, DatabaseSlow: 30}}
	for _, policy := range []Policy{Sequential, Wilson, Point} {
		p := Plan{Policy: policy, LatencyP95: time.Second, DatabaseP95: time.Second, Limit: 20 * flags.Percent}.withDefaults()
		for _, e := range []Evidence{slow, db} {
			if _, f := (watch{}).look(p, e); !f.breach {
				t.Errorf("%s does not object to %+v", policy, e)
			}
		}
		p.LatencyP95, p.DatabaseP95 = 0, 0
		for _, e := range []Evidence{slow, db} {
			if _, f := (watch{}).look(p, e); f.breach {
				t.Errorf("%s without a gate: %s", policy, f.detail)
			}
		}
	}
	p := Plan{LatencyP95: time.Second}.withDefaults()
	_, f := watch{}.look(p, slow)
	if want := "30 of 100 requests took longer than the plan's latency, 30.0 % where 5 % are allowed (e-value 5.52e+12)"; f.detail != want {
		t.Errorf("%s, want %s", f.detail, want)
	}
}

func TestAnOutageInBothArmsHoldsAndIsForgottenAfterwards(t *testing.T) {
	p := Plan{}.withDefaults()
	var w watch
	var f finding
	var e Evidence
	add := func(n, exposed, control int64) finding {
		e.Exposed.Outcomes += n
		e.Exposed.Failures += exposed
		e.Control.Outcomes += n
		e.Control.Failures += control
		// What is remembered goes through the database.
		b, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		w = watch{}
		if err := json.Unmarshal(b, &w); err != nil {
			t.Fatal(err)
		}
		w, f = w.look(p, e)
		return f
	}
	if f = add(500, 5, 5); f != (finding{}) {
		t.Fatalf("healthy: %+v", f)
	}
	for range 20 {
		if f = add(40, 36, 34); !f.outage || f.breach {
			t.Fatalf("an outage: %+v", f)
		}
	}
	for range 20 {
		f = add(40, 0, 0)
	}
	if f != (finding{}) {
		t.Fatalf("after the outage: %+v", f)
	}
	if f = add(40, 30, 1); !f.breach || f.outage {
		t.Fatalf("a fault of the feature: %+v", f)
	}
}

func TestAFewControlOutcomesExcuseNothing(t *testing.T) {
	p := Plan{}.withDefaults()
	if _, f := (watch{}).look(p, Evidence{Exposed: counted(40, 30), Control: counted(minControl-1, minControl-1)}); !f.breach {
		t.Errorf("%+v", f)
	}
	if _, f := (watch{}).look(p, Evidence{Exposed: counted(200, 150), Control: counted(200, 20)}); !f.breach {
		t.Errorf("the control arm fails as well, but clearly less: %+v", f)
	}
}

func TestRemovedCountersBeginTheTestAnew(t *testing.T) {
	p := Plan{}.withDefaults()
	w, _ := watch{}.look(p, Evidence{Exposed: counted(1000, 10)})
	w, f := w.look(p, Evidence{Exposed: counted(10, 9)})
	if f != (finding{}) || w.Seen.Outcomes != 10 {
		t.Errorf("%+v, %+v", f, w.Seen)
	}
	if _, f = w.look(p, Evidence{Exposed: counted(50, 40)}); !f.breach {
		t.Errorf("and then nothing is seen: %+v", f)
	}
}

func TestCounts(t *testing.T) {
	c := Counts{Outcomes: 4, Failures: 1, LatencyUS: 6000, DatabaseUS: 400}
	if c.ErrorRate() != .25 || c.Latency() != 1500*time.Microsecond || c.DatabaseTime() != 100*time.Microsecond {
		t.Errorf("%v %v %v", c.ErrorRate(), c.Latency(), c.DatabaseTime())
	}
	if z := (Counts{}); z.ErrorRate() != 0 || z.Latency() != 0 || z.DatabaseTime() != 0 {
		t.Error("nothing has a rate")
	}
	if diff := cmp.Diff(Counts{3, 1, 2, 1, 1, 5, 6}, Counts{6, 2, 4, 2, 2, 10, 12}.minus(Counts{3, 1, 2, 1, 1, 5, 6})); diff != "" {
		t.Error(diff)
	}
}
