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

// bad returns how many outcomes fail a gate.
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
	// minOutcomes is the least outcomes for any verdict; fewer could be one user's.
	minOutcomes = 20
	// recentOutcomes of the exposed arm are compared with the control arm's.
	recentOutcomes = 100
	// minControl is how many outcomes of the control arm say something.
	minControl = 10
	// clearlyWorse is how many standard errors the exposed arm must be above
	// the control arm to be at fault while both are above the limit.
	clearlyWorse = 4
)

// memory is what the evaluations of a stage run keep from one to the next. The
// zero value is that of a run's beginning.
type memory struct {
	Seen    Counts          `json:"seen"`             // by the last evaluation, exposed
	Base    Counts          `json:"base"`             // where the tests began, exposed
	EValues [gates]*eValues `json:"e_values"`         // of the tests
	Recent  [2]Evidence     `json:"recent"`           // where the recent window begins, and the next one
	Outage  *int            `json:"outage,omitempty"` // the gate that both arms fail
}

// finding is the result of an evaluation: nothing, a breach, or an outage.
type finding struct {
	breach, outage bool
	detail         string
}

// update takes all the evidence of a stage run so far and returns what to
// remember and what was found.
func (m memory) update(p Plan, now Evidence) (memory, finding) {
	if now.Exposed.Outcomes < m.Seen.Outcomes {
		m = memory{}.restarted(now.Exposed) // somebody removed counters
		m.Recent = [2]Evidence{now, now}
	}
	recent := now.minus(m.Recent[0])
	var found finding
	if m.Outage != nil && !bothFail(recent, *m.Outage, p.limit(*m.Outage)) {
		m.Outage = nil
	}
	if m.Outage != nil {
		found = finding{outage: true, detail: outageDetail(recent, *m.Outage)}
	} else {
		for gate := range gates {
			detail := ""
			if m.EValues[gate], detail = m.test(p, gate, now.Exposed); detail == "" {
				continue
			}
			if bothFail(recent, gate, p.limit(gate)) {
				m.Outage = &gate
				found = finding{outage: true, detail: outageDetail(recent, gate)}
				break
			}
			if !found.breach {
				found = finding{breach: true, detail: detail}
			}
		}
	}
	if found.outage {
		// The feature is not the cause of what users met, so it is no evidence.
		m = m.restarted(now.Exposed)
	}
	m.Seen = now.Exposed
	if recent = now.minus(m.Recent[1]); recent.Exposed.Outcomes >= recentOutcomes {
		m.Recent = [2]Evidence{m.Recent[1], now}
	}
	return m, found
}

// restarted returns the memory with tests that begin now.
func (m memory) restarted(at Counts) memory {
	return memory{Seen: at, Base: at, Recent: m.Recent, Outage: m.Outage}
}

// test runs the sequential test of one gate, and returns what it objects to.
func (m memory) test(p Plan, gate int, now Counts) (values *eValues, detail string) {
	limit := p.limit(gate)
	if limit == 1 {
		return nil, ""
	}
	since, fresh := now.minus(m.Base), now.minus(m.Seen)
	values = m.EValues[gate].next(limit, m.Seen.minus(m.Base).Outcomes, fresh.Outcomes, fresh.bad(gate))
	if values.log() < math.Log(eValueLimit) || since.Outcomes < minOutcomes {
		return values, ""
	}
	return values, fmt.Sprintf("%d of %d %s, %.1f %% where %.4g %% are allowed (e-value %.3g)",
		since.bad(gate), since.Outcomes, gateNames[gate], 100*since.rate(gate), 100*limit, math.Exp(min(values.log(), 700)))
}

// bothFail reports whether the control arm is above the limit as well, and the
// exposed arm not clearly worse: the difference is below four standard errors.
func bothFail(recent Evidence, gate int, limit float64) bool {
	e, c := recent.Exposed, recent.Control
	if c.Outcomes < minControl || c.rate(gate) <= limit {
		return false
	}
	pooled := float64(e.bad(gate)+c.bad(gate)) / float64(e.Outcomes+c.Outcomes)
	deviation := math.Sqrt(pooled * (1 - pooled) * (1/float64(max(e.Outcomes, 1)) + 1/float64(c.Outcomes)))
	return e.rate(gate)-c.rate(gate) <= clearlyWorse*deviation
}

func outageDetail(recent Evidence, gate int) string {
	return fmt.Sprintf("lately %d of %d %s, and so did %d of %d without the feature: the cause is elsewhere",
		recent.Exposed.bad(gate), recent.Exposed.Outcomes, gateNames[gate], recent.Control.bad(gate), recent.Control.Outcomes)
}
