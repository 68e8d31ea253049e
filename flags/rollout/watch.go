package rollout

import (
	"fmt"
	"math"
)

// The gates of a plan: what makes an outcome a bad one.
const (
	gateErrors = iota
	gateLatency
	gateDatabase
	gates
)

var gateNames = [gates]string{"requests failed", "requests took longer than the plan's latency", "requests spent longer in the database than the plan allows"}

// slowShare is the share of requests that may be slower than a gate: a 95th percentile.
const slowShare = .05

// bad is how many outcomes a gate objects to.
func (c Counts) bad(gate int) int64 {
	return [gates]int64{c.Failures, c.Slow, c.DatabaseSlow}[gate]
}

func (c Counts) rate(gate int) float64 {
	if c.Outcomes == 0 {
		return 0
	}
	return float64(c.bad(gate)) / float64(c.Outcomes)
}

// limit is the share of bad outcomes that a gate allows; 1 is no gate.
func (p Plan) limit(gate int) float64 {
	switch {
	case gate == gateErrors:
		return float64(p.Limit) / 10_000
	case gate == gateLatency && p.LatencyP95 > 0, gate == gateDatabase && p.DatabaseP95 > 0:
		return slowShare
	}
	return 1
}

const (
	longWindow   = 1000 // outcomes of the exposed arm, for Wilson and Point
	recentWindow = 100  // likewise, for comparing the arms
	// minControl is how many outcomes of the control arm say something.
	minControl = 10
	// clearlyWorse is how many standard errors the exposed arm must be above
	// the control arm to be at fault while both are above the limit.
	clearlyWorse = 4
)

// watch is what a bake's looks remember of one another. The zero value is that
// of a bake's beginning.
type watch struct {
	Seen Counts       `json:"seen"`             // by the last look, exposed
	Base Counts       `json:"base"`             // where the tests began, exposed
	Bets [gates]*logs `json:"bets"`             // of Sequential
	Long [2]Counts    `json:"long"`             // where the window begins, and the next one
	Near [2]Evidence  `json:"near"`             // likewise, both arms
	Shut *int         `json:"outage,omitempty"` // the gate that both arms fail
}

// finding is a look's result: nothing, a breach, or an outage.
type finding struct {
	breach, outage bool
	detail         string
}

// look takes all the evidence of a bake there is by now and returns what to
// remember and what was found.
func (w watch) look(p Plan, now Evidence) (watch, finding) {
	if now.Exposed.Outcomes < w.Seen.Outcomes {
		w = watch{}.anew(now.Exposed) // somebody removed counters
		w.Near = [2]Evidence{now, now}
	}
	near := now.minus(w.Near[0])
	var found finding
	if w.Shut != nil && !bothFail(near, *w.Shut, p.limit(*w.Shut)) {
		w.Shut = nil
	}
	if w.Shut != nil {
		found = finding{outage: true, detail: outageDetail(near, *w.Shut)}
	} else {
		for gate := range gates {
			detail := ""
			if w.Bets[gate], detail = w.judge(p, gate, now.Exposed); detail == "" {
				continue
			}
			if bothFail(near, gate, p.limit(gate)) {
				w.Shut = &gate
				found = finding{outage: true, detail: outageDetail(near, gate)}
				break
			}
			if !found.breach {
				found = finding{breach: true, detail: detail}
			}
		}
	}
	if found.outage {
		// What users met was nobody's fault here, so it is no evidence.
		w = w.anew(now.Exposed)
	}
	w.Seen = now.Exposed
	if now.Exposed.Outcomes-w.Long[1].Outcomes >= longWindow {
		w.Long = [2]Counts{w.Long[1], now.Exposed}
	}
	if near = now.minus(w.Near[1]); near.Exposed.Outcomes >= recentWindow {
		w.Near = [2]Evidence{w.Near[1], now}
	}
	return w, found
}

// anew is the watch with its tests begun anew.
func (w watch) anew(at Counts) watch {
	return watch{Seen: at, Base: at, Long: [2]Counts{at, at}, Near: w.Near, Shut: w.Shut}
}

// judge applies the plan's policy to one gate and says what it found, if anything.
func (w watch) judge(p Plan, gate int, now Counts) (bets *logs, detail string) {
	limit := p.limit(gate)
	if limit == 1 {
		return nil, ""
	}
	since, measure, breach := now.minus(w.Long[0]), 0.0, false
	switch p.Policy {
	case Sequential:
		since = now.minus(w.Base)
		fresh := now.minus(w.Seen)
		bets = w.Bets[gate].next(limit, w.Seen.minus(w.Base).Outcomes, fresh.Outcomes, fresh.bad(gate))
		measure = bets.sum()
		breach = measure >= math.Log(eValue)
	case Wilson:
		measure = wilsonLower(since.Outcomes, since.bad(gate))
		breach = measure > limit
	case Point:
		measure = pointRate(since.Outcomes, since.bad(gate))
		breach = measure > limit
	}
	if !breach || since.Outcomes < floor {
		return bets, ""
	}
	measured := map[Policy]string{
		Sequential: fmt.Sprintf("e-value %.3g", math.Exp(min(measure, 700))),
		Wilson:     fmt.Sprintf("at least %.2f %% with a confidence of 99.9 %%", 100*measure),
		Point:      fmt.Sprintf("%.2f %% with the floor", 100*measure),
	}
	return bets, fmt.Sprintf("%d of %d %s, %.1f %% where %.4g %% are allowed (%s)",
		since.bad(gate), since.Outcomes, gateNames[gate], 100*since.rate(gate), 100*limit, measured[p.Policy])
}

// bothFail tells whether the control arm is above the limit as well, and the
// exposed arm not clearly worse: the difference is below four standard errors.
func bothFail(near Evidence, gate int, limit float64) bool {
	e, c := near.Exposed, near.Control
	if c.Outcomes < minControl || c.rate(gate) <= limit {
		return false
	}
	pooled := float64(e.bad(gate)+c.bad(gate)) / float64(e.Outcomes+c.Outcomes)
	deviation := math.Sqrt(pooled * (1 - pooled) * (1/float64(max(e.Outcomes, 1)) + 1/float64(c.Outcomes)))
	return e.rate(gate)-c.rate(gate) <= clearlyWorse*deviation
}

func outageDetail(near Evidence, gate int) string {
	return fmt.Sprintf("lately %d of %d %s, and so did %d of %d without the feature: the cause is elsewhere",
		near.Exposed.bad(gate), near.Exposed.Outcomes, gateNames[gate], near.Control.bad(gate), near.Control.Outcomes)
}
