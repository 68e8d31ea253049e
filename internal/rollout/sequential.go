package rollout

import (
	"math"
	"time"
)

// The sequential test may be looked at as often as one likes, and objects to a
// rate that is within its limit in at most 1 of eValueLimit days of a stage,
// provided that outcomes are independent. It is the sum of e-processes that
// begin at different times with weights that add up to 1 a day, so that its
// mean grows by 1 a day at most, and Doob's inequality bounds its maximum. Its
// figures: docs/decisions/0007-rollout-policy.md.
const (
	// eValueLimit is the sum from which on the test objects.
	eValueLimit = 100
	// lateShare of a day's weight is on tests that begin within that day, evenly.
	// Without them, a stage that was healthy for a day would take long to be
	// found failing. The rest of the first day's is on the test that begins with
	// the stage, which finds small differences.
	lateShare = 0.75
	// maxBegun is the most that one evaluation begins with, for a controller that
	// has been away.
	maxBegun = time.Minute
)

// alternatives are the rates that the test bets on, where the limit is 5 %.
var alternatives = [...]float64{.06, .075, .1, .15, .25, .5}

// lateWeights are how late tests weigh the alternatives: to find a great
// difference soon.
var lateWeights = [len(alternatives)]float64{.02, .03, .05, .3, .4, .2}

const alternativesLimit = .05

// alternative returns one of the alternatives for any limit below 1.
func alternative(i int, limit float64) float64 {
	return limit + (alternatives[i]-alternativesLimit)*(1-limit)/(1-alternativesLimit)
}

// logGain is the log of (p/limit)^bad · ((1−p)/(1−limit))^(n−bad).
func logGain(p, limit float64, n, bad int64) float64 {
	return float64(bad)*math.Log(p/limit) + float64(n-bad)*math.Log((1-p)/(1-limit))
}

// eValues are the logs of the e-value of each alternative p: for a test that
// began with the first outcome, its share of the weight times
// (p/limit)^bad · ((1−p)/(1−limit))^(n−bad).
type eValues [len(alternatives)]float64

// next returns the e-values after n more outcomes, which came within elapsed.
func (e *eValues) next(limit float64, elapsed time.Duration, n, bad int64) *eValues {
	var next eValues
	fresh := lateShare * min(elapsed, maxBegun).Hours() / 24
	for i := range next {
		had := math.Log((1 - lateShare) / float64(len(next)))
		if e != nil {
			had = e[i]
		}
		if fresh > 0 {
			had = logAdd(had, math.Log(fresh*lateWeights[i]))
		}
		next[i] = had + logGain(alternative(i, limit), limit, n, bad)
	}
	return &next
}

// log returns the log of the test's e-value.
func (e *eValues) log() float64 {
	sum := math.Inf(-1)
	for _, x := range e {
		sum = logAdd(sum, x)
	}
	return sum
}

// logAdd is log(e^a + e^b).
func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if a-b > 40 { // nothing of b is left in a float64, and a healthy stage has a lot of this
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}
