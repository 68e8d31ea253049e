package rollout

import "math"

// The sequential test is an e-process: it may be looked at as often as one
// likes, and objects to a rate that is within its limit in at most 1 of
// eValueLimit stages, provided that outcomes are independent. Its figures:
// docs/decisions/0007-rollout-policy.md.
const (
	// eValueLimit is the e-value from which on the test objects.
	eValueLimit = 100
	// lateShare of the weight is on tests that begin later than the stage, half
	// of it within the first lateHalf outcomes. Without them, a stage that was
	// healthy for a day would take long to be found failing.
	lateShare = 0.5
	lateHalf  = 1000
)

// alternatives are the rates that the test bets on, where the limit is 5 %.
var alternatives = [...]float64{.06, .075, .1, .15, .25, .5}

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

// next returns the e-values after n more outcomes, where before came earlier.
// Each is a sum of e-processes that begin at different outcomes with weights
// that add up to 1, and so is an e-process itself.
func (e *eValues) next(limit float64, before, n, bad int64) *eValues {
	var next eValues
	share := 1 / float64(len(next))
	fresh := math.Log(share * lateShare * (begun(before+n) - begun(before)))
	for i := range next {
		had := math.Log(share * (1 - lateShare))
		if e != nil {
			had = e[i]
		}
		next[i] = logAdd(had, fresh) + logGain(alternative(i, limit), limit, n, bad)
	}
	return &next
}

// begun is the share of the later tests that have begun after n outcomes.
func begun(n int64) float64 { return float64(n) / float64(n+lateHalf) }

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
	if math.IsInf(b, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}
