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

func TestX(t *testing.T) {
	for _, pol := range []Policy{Sequential, Wilson, Point} {
		p := Plan{Policy: pol}.withDefaults()
		for _, c := range []float64{.03, .04, .05, .1, .2, .6} {
			rb, med, _ := bakes(2000, p, 0, 120, c, -1)
			fmt.Printf("%s %.2f: %.4f %v\n", pol, c, rb, med)
		}
		for _, h := range []int{120, 1440} {
			for _, c := range []float64{.1, .2, .6} {
				rb, med, early := bakes(500, p, h, 120, c, -1)
				fmt.Printf("%s late %d %.2f: %.4f %v early %v\n", pol, h, c, rb, med, early)
			}
		}
		for _, c := range []float64{.1, .2, .6, .95} {
			rb, med, early := bakes(1000, p, 60, 120, c, c)
			fmt.Printf("%s outage %.2f: %.4f %v early %v\n", pol, c, rb, med, early)
			rb, med, early = bakes(1000, p, 60, 120, c, .03)
			fmt.Printf("%s exposed only %.2f: %.4f %v early %v\n", pol, c, rb, med, early)
		}
	}
}
