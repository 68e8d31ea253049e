package rollout

import (
	"math"
	"time"
)

// The sequential test decides whether a rate is above its limit, and may be
// evaluated after each outcome. If the rate is within its limit and outcomes are
// independent, it raises a false alarm on at most 1 of eValueLimit days. It is a sum
// of e-processes that begin at different times. Their weights add up to 1 a day, so
// the mean of the sum grows by at most 1 a day, and Doob's inequality bounds its
// maximum. docs/decisions/0007-rollout-policy.md has measurements.
const (
	// The test raises an alarm when the sum reaches eValueLimit.
	eValueLimit = 100
	// lateShare is the share of each day's weight that goes evenly to the tests
	// that begin during the day. Without them, it would take long to find that a
	// stage fails after a healthy day. The rest of the first day's weight goes to
	// the test that begins with the stage, which finds small differences.
	lateShare = 0.75
	// maxBegun limits the time for which one evaluation begins tests, after a
	// pause of all controllers.
	maxBegun = time.Minute
)

// alternatives are the rates against which the test compares a limit of 5 %.
var alternatives = [...]float64{.06, .075, .1, .15, .25, .5}

// lateWeights are the weights of the alternatives in the tests that begin later.
// They favour great differences, which these tests are to find soon.
var lateWeights = [len(alternatives)]float64{.02, .03, .05, .3, .4, .2}

const alternativesLimit = .05

// alternative returns an alternative, scaled to any limit below 1.
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

// next returns the e-values after n more outcomes, which came within elapsed. A nil
// receiver is the beginning of a test.
func (e *eValues) next(limit float64, elapsed time.Duration, n, bad int64) *eValues {
	var result eValues
	begunWeight := lateShare * min(elapsed, maxBegun).Hours() / 24
	for i := range result {
		before := math.Log((1 - lateShare) / float64(len(result)))
		if e != nil {
			before = e[i]
		}
		if begunWeight > 0 {
			before = logAdd(before, math.Log(begunWeight*lateWeights[i]))
		}
		result[i] = before + logGain(alternative(i, limit), limit, n, bad)
	}
	return &result
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
	if a-b > 40 { // b would not change the sum; leaving it out saves time in healthy stages
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}
