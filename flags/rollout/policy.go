package rollout

import "math"

// Policy is a rule that decides, from outcomes that keep coming in, when more
// of them are bad than the limit allows. The figures of each, and why
// Sequential is the default: docs/decisions/0007-rollout-policy.md.
type Policy string

const (
	// Sequential is an e-process: it may be looked at as often as one likes,
	// and takes a feature back that is within its limit once in a hundred
	// stages at most, provided that outcomes are independent.
	Sequential Policy = "sequential"
	// Wilson is the lower bound of Wilson's interval at 99.9 %, over the last
	// 1,000 to 2,000 outcomes.
	Wilson Policy = "wilson"
	// Point is the rate itself over the last 1,000 to 2,000 outcomes, taken as
	// if 200 good ones had come before. It promises nothing near the limit.
	Point Policy = "point"
)

const (
	// floor is the least outcomes for any verdict. Fewer could be one user's.
	floor = 20
	// pointFloor is how many good outcomes Point adds, so that a few bad ones
	// at the beginning are no rate.
	pointFloor = 200
	// wilsonZ is the quantile of 99.9 %, one-sided.
	wilsonZ = 3.0902
	// eValue is where Sequential decides: false alarms are at most 1 in it.
	eValue = 100
	// lateShare of Sequential's weight goes to tests that begin later than the
	// stage, half of it within the first lateHalf outcomes. Without them, a
	// stage that was healthy for a day would take long to be found ill.
	lateShare = 0.5
	lateHalf  = 1000
)

// alternatives are the rates that Sequential bets on, where the limit is 5 %.
var alternatives = [...]float64{.06, .075, .1, .15, .25, .5}

const alternativesLimit = .05

// alternative is one of the alternatives for any limit below 1.
func alternative(i int, limit float64) float64 {
	return limit + (alternatives[i]-alternativesLimit)*(1-limit)/(1-alternativesLimit)
}

// logGain is the log of (p/limit)^bad · ((1−p)/(1−limit))^(n−bad).
func logGain(p, limit float64, n, bad int64) float64 {
	return float64(bad)*math.Log(p/limit) + float64(n-bad)*math.Log((1-p)/(1-limit))
}

// logs are the logs of what Sequential's bets on each alternative p are worth:
// for a test that began with the first outcome, the share of the bet times
// (p/limit)^bad · ((1−p)/(1−limit))^(n−bad).
type logs [len(alternatives)]float64

// next are the bets after more outcomes, where before came earlier. The bets
// are e-processes that begin at different outcomes, with weights that are 1 in
// all, and so is their sum.
func (l *logs) next(limit float64, before, n, bad int64) *logs {
	var next logs
	share := 1 / float64(len(next))
	fresh := math.Log(share * lateShare * (spent(before+n) - spent(before)))
	for i := range next {
		had := math.Log(share * (1 - lateShare))
		if l != nil {
			had = l[i]
		}
		next[i] = logAdd(had, fresh) + logGain(alternative(i, limit), limit, n, bad)
	}
	return &next
}

// spent is the share of the later tests that have begun after n outcomes.
func spent(n int64) float64 { return float64(n) / float64(n+lateHalf) }

func (l *logs) sum() float64 {
	sum := math.Inf(-1)
	for _, x := range l {
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

// wilsonLower is the lower bound of Wilson's score interval.
func wilsonLower(n, bad int64) float64 {
	if n == 0 {
		return 0
	}
	size, p, z2 := float64(n), float64(bad)/float64(n), wilsonZ*wilsonZ
	return (p + z2/(2*size) - wilsonZ*math.Sqrt(p*(1-p)/size+z2/(4*size*size))) / (1 + z2/size)
}

// pointRate is the rate after pointFloor good outcomes.
func pointRate(n, bad int64) float64 { return float64(bad) / float64(n+pointFloor) }
