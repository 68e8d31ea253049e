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

// simulate runs n stages of both arms with 20 requests a minute each: first
// healthy minutes at 3 %, then minutes at the given rates, and an evaluation
// each minute. A control rate below 0 is no control arm. It returns the share
// rolled back in the second part, the median minutes that took, and the share
// rolled back before it.
func simulate(n, healthy, minutes int, exposed, control float64) (rolledBack, median, before float64) {
	const perMinute = 20
	p := Plan{}.withDefaults()
	r := rand.New(rand.NewPCG(1, 2))
	calm, failing, other := binomial(r, perMinute, .03), binomial(r, perMinute, exposed), binomial(r, perMinute, max(control, 1e-9))
	var took []int
	early := 0
	for range n {
		var m memory
		var e Evidence
		for minute := range healthy + minutes {
			from, fromControl := calm, calm
			if minute >= healthy {
				from, fromControl = failing, other
			}
			e.Exposed.Outcomes += perMinute
			e.Exposed.Failures += from.next()
			if control >= 0 {
				e.Control.Outcomes += perMinute
				e.Control.Failures += fromControl.next()
			}
			var found finding
			if m, found = m.update(p, e); found.breach {
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

// 2,000 stages of two hours a cell, 20 requests a minute, limit 5 %.
func TestSimulation_IndependentOutcomes(t *testing.T) {
	if testing.Short() {
		t.Skip("a simulation of 12,000 stages")
	}
	const n, never = 2000, 1 << 20
	for _, c := range []struct {
		rate             float64
		most, caughtWith float64 // share rolled back at most; median minutes at most
	}{{.03, .01, never}, {.04, .01, never}, {.05, .01, never}, {.10, 1, 15}, {.20, 1, 3}, {.60, 1, 1}} {
		t.Run(fmt.Sprintf("%.0f %%", 100*c.rate), func(t *testing.T) {
			t.Parallel()
			share, median, _ := simulate(n, 0, 120, c.rate, -1)
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

// A stage that has been healthy for a day begins to fail.
func TestSimulation_LateFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("a simulation of 200 days")
	}
	for _, c := range []struct{ rate, median float64 }{{.20, 8}, {.60, 2}} {
		t.Run(fmt.Sprintf("%.0f %%", 100*c.rate), func(t *testing.T) {
			t.Parallel()
			_, median, early := simulate(100, 24*60, 120, c.rate, -1)
			t.Logf("caught after %v min in the median; rolled back before %.1f %%", median, 100*early)
			if median > c.median || early > .02 {
				t.Errorf("caught after %v min in the median, %v wanted; rolled back before %.1f %%", median, c.median, 100*early)
			}
		})
	}
}

// An outage after an hour, in both arms alike, with as much traffic in one as
// in the other; and the same in the exposed arm alone.
func TestSimulation_Outages(t *testing.T) {
	if testing.Short() {
		t.Skip("a simulation of 1,800 stages")
	}
	for _, rate := range []float64{.2, .6, .95} {
		t.Run(fmt.Sprintf("%.0f %%", 100*rate), func(t *testing.T) {
			t.Parallel()
			most := .01
			if rate < .5 {
				most = .03 // a small difference between small arms is not always seen
			}
			if share, _, _ := simulate(400, 60, 120, rate, rate); share > most {
				t.Errorf("rolled back %.1f %% in an outage of both arms, at most %.0f %% wanted", 100*share, 100*most)
			}
			if share, median, _ := simulate(200, 60, 120, rate, .03); share < .99 || median > 20 {
				t.Errorf("rolled back %.1f %% of what is the feature's own fault, after %v min in the median", 100*share, median)
			}
		})
	}
}
