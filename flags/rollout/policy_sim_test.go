package rollout

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// draws is a fast source of binomial numbers with a fixed n and p.
type draws struct {
	cdf []float64
	r   *rand.Rand
}

func binomial(r *rand.Rand, n int, p float64) draws {
	d := draws{make([]float64, n+1), r}
	sum := 0.0
	for k := range d.cdf {
		lg := func(x int) float64 { v, _ := math.Lgamma(float64(x + 1)); return v }
		sum += math.Exp(lg(n) - lg(k) - lg(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
		d.cdf[k] = sum
	}
	return d
}

func (d draws) next() int64 {
	u := d.r.Float64()
	for k, c := range d.cdf {
		if u < c {
			return int64(k)
		}
	}
	return int64(len(d.cdf) - 1)
}

// bakes simulates n bakes of both arms with aMinute requests a minute each,
// first healthy minutes at 3 %, then so many at the given rates, and a look
// each minute. A control rate below 0 is no control arm. It returns the share
// that was rolled back in the second part, the median minutes that took, and
// the share rolled back before it.
func bakes(n int, p Plan, healthy, minutes int, exposed, control float64) (rolledBack, median, before float64) {
	const aMinute = 20
	r := rand.New(rand.NewPCG(1, 2))
	calm, ill, other := binomial(r, aMinute, .03), binomial(r, aMinute, exposed), binomial(r, aMinute, max(control, 1e-9))
	var took []int
	early := 0
	for range n {
		var w watch
		var e Evidence
		for minute := range healthy + minutes {
			from, fromControl := calm, calm
			if minute >= healthy {
				from, fromControl = ill, other
			}
			e.Exposed.Outcomes += aMinute
			e.Exposed.Failures += from.next()
			if control >= 0 {
				e.Control.Outcomes += aMinute
				e.Control.Failures += fromControl.next()
			}
			var found finding
			if w, found = w.look(p, e); found.breach {
				if minute < healthy {
					early++
				} else {
					took = append(took, minute-healthy+1)
				}
				break
			}
		}
	}
	median = math.Inf(1)
	slices.Sort(took)
	if len(took) > n/2 {
		median = float64(took[(n-1)/2])
	}
	return float64(len(took)) / float64(n), median, float64(early) / float64(n)
}

// The table of what is known, and the promises: 2,000 bakes of two hours a cell,
// 20 requests a minute, limit 5 %, with the defaults that are shipped.
func TestPoliciesKeepTheirPromises(t *testing.T) {
	if testing.Short() {
		t.Skip("a simulation of 36,000 bakes")
	}
	const n, never = 2000, 1 << 20
	for _, c := range []struct {
		policy           Policy
		rate             float64
		most, caughtWith float64 // share rolled back at most; median minutes at most
	}{
		{Sequential, .03, .01, never}, {Sequential, .04, .01, never}, {Sequential, .05, .01, never},
		{Sequential, .10, 1, 15}, {Sequential, .20, 1, 3}, {Sequential, .60, 1, 1},
		{Wilson, .03, .01, never}, {Wilson, .04, .01, never}, {Wilson, .05, .04, never},
		{Wilson, .10, 1, 9}, {Wilson, .20, 1, 3}, {Wilson, .60, 1, 1},
		{Point, .03, .01, never}, {Point, .04, .01, never}, {Point, .05, .5, never},
		{Point, .10, 1, 12}, {Point, .20, 1, 5}, {Point, .60, 1, 1},
	} {
		t.Run(fmt.Sprintf("%s at %.0f %%", c.policy, 100*c.rate), func(t *testing.T) {
			t.Parallel()
			share, median, _ := bakes(n, Plan{Policy: c.policy}.withDefaults(), 0, 120, c.rate, -1)
			t.Logf("rolled back %.2f %%, in the median after %v min", 100*share, median)
			if share > c.most {
				t.Errorf("rolled back %.2f %%, at most %.0f %% wanted", 100*share, 100*c.most)
			}
			if c.caughtWith < never && median > c.caughtWith {
				t.Errorf("caught after %v min in the median, %v wanted", median, c.caughtWith)
			}
		})
	}
}

// A stage that has been healthy for a day falls ill.
func TestLateFaultsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("a simulation of 600 days")
	}
	for _, c := range []struct {
		policy Policy
		rate   float64
		median float64
	}{{Sequential, .20, 8}, {Sequential, .60, 2}, {Wilson, .20, 16}, {Wilson, .60, 7}, {Point, .20, 16}, {Point, .60, 7}} {
		t.Run(fmt.Sprintf("%s at %.0f %%", c.policy, 100*c.rate), func(t *testing.T) {
			t.Parallel()
			_, median, early := bakes(100, Plan{Policy: c.policy}.withDefaults(), 24*60, 120, c.rate, -1)
			t.Logf("caught after %v min in the median; rolled back before %.1f %%", median, 100*early)
			if median > c.median || early > .02 {
				t.Errorf("caught after %v min in the median, %v wanted; rolled back before %.1f %%", median, c.median, 100*early)
			}
		})
	}
}

// A provider's outage after an hour, in both arms alike, with as much traffic
// in the one as in the other; and the same in the exposed arm alone.
func TestAnOutageHolds(t *testing.T) {
	if testing.Short() {
		t.Skip("a simulation of 5,400 bakes")
	}
	for _, policy := range []Policy{Sequential, Wilson, Point} {
		for _, rate := range []float64{.2, .6, .95} {
			t.Run(fmt.Sprintf("%s at %.0f %%", policy, 100*rate), func(t *testing.T) {
				t.Parallel()
				p := Plan{Policy: policy}.withDefaults()
				most := .01
				if rate < .5 {
					most = .03 // a small difference between small arms is not always seen
				}
				if share, _, _ := bakes(400, p, 60, 120, rate, rate); share > most {
					t.Errorf("rolled back %.1f %% in an outage of both arms, at most %.0f %% wanted", 100*share, 100*most)
				}
				if share, median, _ := bakes(200, p, 60, 120, rate, .03); share < .99 || median > 20 {
					t.Errorf("rolled back %.1f %% of what is the feature's own fault, after %v min in the median", 100*share, median)
				}
			})
		}
	}
}

// The e-process as it is known, without later tests: the table's last row, and
// what it would take after a healthy day.
func TestThePlainEProcessIsTheOneThatIsKnown(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct {
		rate, most, median float64
		healthy            int64
	}{{.03, .01, 0, 0}, {.05, .01, 0, 0}, {.1, 1, 15, 0}, {.2, 1, 3, 0}, {.6, 1, 1, 0}, {.6, 1, 90, 24 * 60}} {
		d := binomial(r, 20, c.rate)
		var took []int
		for range 500 {
			n, bad := 20*c.healthy, 20*c.healthy*3/100
			for minute := range 120 {
				if n, bad = n+20, bad+d.next(); logE(n, bad) >= math.Log(eValue) {
					took = append(took, minute+1)
					break
				}
			}
		}
		slices.Sort(took)
		if share := float64(len(took)) / 500; share > c.most {
			t.Errorf("%v: %.1f %% rolled back", c.rate, 100*share)
		}
		if c.median == 0 {
			continue
		}
		if len(took) < 250 || float64(took[249]) > c.median {
			t.Errorf("%v after %d healthy minutes: not within %v min in the median", c.rate, c.healthy, c.median)
		} else {
			t.Logf("%v after %d healthy minutes: %d min in the median", c.rate, c.healthy, took[249])
		}
	}
}
