package rollout

import (
	"fmt"
	"math"
	"time"
)

// The gates of a plan. Each has its limit and its own rule for a bad outcome.
const (
	gateOwn      = iota // the feature's own failures
	gateAll             // own and provider failures; compared with the control arm
	gateLatency         // slow requests; compared with the control arm
	gateDatabase        // a slow database; makes the stage wait and never rolls back
	gates
)

// gateTexts say what is bad about an outcome, after "5 of 20".
var gateTexts = [gates]string{
	"requests failed",
	"requests failed here or at their provider",
	"requests took longer than the plan's latency",
	"requests spent longer in the database than the plan allows",
}

// gateKinds are the kinds of failing users that a gate counts.
var gateKinds = [gates][]failureKind{{kindFailure}, {kindFailure, kindProvider}, {kindSlow}, nil}

// slowShare is the share of requests that may take longer than the plan's 95th
// percentiles.
const slowShare = .05

// bad returns how many outcomes fail a gate.
func (c Counts) bad(gate int) int64 {
	return [gates]int64{c.Failures - c.ProviderFailures, c.Failures, c.Slow, c.DatabaseSlow}[gate]
}

// trials returns how many requests could have failed because of the feature.
// Requests with a shared failure could have, too.
func (c Counts) trials() int64 { return c.Outcomes + c.SharedFailures }

func (c Counts) rate(gate int) float64 { return share(c.bad(gate), c.trials()) }

// limit returns the share of bad outcomes that a gate allows. It is 1 if the plan
// does not have the gate.
func (p Plan) limit(gate int) float64 {
	switch {
	case gate <= gateAll:
		return float64(p.Limit) / 10_000
	case gate == gateLatency && p.LatencyP95 > 0, gate == gateDatabase && p.DatabaseP95 > 0:
		return slowShare
	}
	return 1
}

const (
	// A rollback needs a rate above the limit in each of the last windows. They
	// cover at least two minutes, so that no failure of one minute rolls back.
	windows   = 4
	windowMin = 30 * time.Second
	// A window lasts until it has windowTrials requests.
	windowTrials = 5
	// A gate needs minTrials requests for any verdict.
	minTrials = 20
	// A stage waits if at least minShared requests lately had a shared failure.
	minShared = 5
	// The control arm needs minControl requests for a comparison.
	minControl = 10
	// The exposed arm is clearly worse if its rate is more than clearlyWorse
	// standard errors above the control arm's.
	clearlyWorse = 4
)

// memory is the state that an evaluation of a stage run leaves to the next. The
// zero value is for the first evaluation.
type memory struct {
	Seen  Evidence    `json:"seen"`           // by the last evaluation
	At    time.Time   `json:"at"`             // of the last evaluation
	Tests [gates]test `json:"tests"`          // sequential
	Marks []mark      `json:"marks"`          // the bounds of the last windows, in their order
	Hold  *int        `json:"hold,omitempty"` // the gate for which the stage waits
	Few   string      `json:"few,omitempty"`  // the detail while too few users fail
	// Quarters is how many quarters of the hold have had their samples, and
	// QuarterOutcomes how many outcomes the stage run had after the last of them.
	Quarters        int64 `json:"quarters"`
	QuarterOutcomes int64 `json:"quarter_outcomes"`
	// FlagSeed is the flag's seed when the rollout last wrote the flag or adopted
	// a change of it; nil is unknown.
	FlagSeed *string `json:"flag_seed,omitempty"`
	// SteppedBack says that a breach has led back to this stage: the next breach
	// switches the flag off.
	SteppedBack bool   `json:"stepped_back,omitempty"`
	Minute      int64  `json:"minute"` // the Unix minute whose evidence was last saved
	Detail      string `json:"detail"` // why the rollout waits, is paused or has ended
}

// test is the sequential test of one gate.
type test struct {
	Base    int64    `json:"base"` // how many trials came before the test
	EValues *eValues `json:"e_values"`
}

// mark is the evidence at one time.
type mark struct {
	At time.Time `json:"at"`
	Evidence
}

// finding is the result of an evaluation: nothing, a breach, or what the stage
// waits for.
type finding struct {
	breach  bool
	waiting string
	detail  string
}

// userCounter returns how many different users failed a gate since a time.
type userCounter func(gate int, since time.Time) (int64, error)

// update evaluates the evidence that a stage run has at the time at. It returns
// the memory for the next evaluation, and the finding.
func (m memory) update(p Plan, now Evidence, at time.Time, users userCounter) (memory, finding, error) {
	if now.Exposed.trials() < m.Seen.Exposed.trials() { // somebody deleted counts: begin again
		m.Tests, m.Marks, m.Seen = [gates]test{}, []mark{{at, now}}, now
		for gate := range gates {
			m.Tests[gate].Base = now.Exposed.trials()
		}
	}
	var elapsed time.Duration
	if !m.At.IsZero() {
		elapsed = at.Sub(m.At)
	}
	m.At = at
	m.Marks = addMark(m.Marks, now, at)
	if m.Hold != nil && (m.recent().Exposed.rate(*m.Hold) <= p.limit(*m.Hold) || m.isFeaturesFault(*m.Hold)) {
		m.Hold = nil
	}
	found := m.findShared(p, now)
	few := ""
	for gate := range gates {
		limit := p.limit(gate)
		if limit == 1 {
			continue
		}
		t := &m.Tests[gate]
		if m.Hold != nil && *m.Hold == gate {
			*t = test{Base: now.Exposed.trials()} // the cause is not the feature: no evidence
			continue
		}
		added := now.Exposed.minus(m.Seen.Exposed)
		t.EValues = t.EValues.next(limit, elapsed, added.trials(), added.bad(gate))
		alarm := t.EValues.log() >= math.Log(eValueLimit) && now.Exposed.trials()-t.Base >= minTrials
		if !alarm {
			continue
		}
		if !m.isHigh(gate, limit) {
			if few == "" {
				few = m.Few // keep the last detail while the test's alarm lasts
			}
			continue
		}
		if gate == gateAll && few != "" {
			continue // gateOwn has found the same failures
		}
		if !m.isFeaturesFault(gate) {
			*t, m.Hold = test{Base: now.Exposed.trials()}, &gate
			continue
		}
		n, err := users(gate, m.Marks[0].At)
		if err != nil {
			return m, finding{}, err
		}
		if n >= int64(p.MinUsers) {
			m.Seen = now
			return m, finding{breach: true, detail: m.breachDetail(gate, limit, n)}, nil
		}
		few = fmt.Sprintf("%s, but for only %d users; a rollback needs %d", m.rateDetail(gate, limit), n, p.MinUsers)
	}
	m.Seen, m.Few = now, few
	switch {
	case found.waiting != "":
	case m.Hold != nil:
		found = finding{waiting: waitingOutage, detail: m.holdDetail(*m.Hold, p.limit(*m.Hold))}
	case few != "":
		found = finding{waiting: waitingUsers, detail: few}
	}
	return m, found, nil
}

// addMark ends the current window if it is long enough and has enough requests.
func addMark(marks []mark, now Evidence, at time.Time) []mark {
	if len(marks) == 0 {
		return []mark{{At: at}}
	}
	last := marks[len(marks)-1]
	if at.Sub(last.At) < windowMin || now.minus(last.Evidence).Exposed.trials() < windowTrials {
		return marks
	}
	marks = append(marks[:len(marks):len(marks)], mark{at, now})
	return marks[max(0, len(marks)-windows-1):]
}

// recent returns the evidence of the last windows that have ended.
func (m memory) recent() Evidence {
	return m.Marks[len(m.Marks)-1].minus(m.Marks[0].Evidence)
}

// isHigh reports whether the rate was above the limit in each of the last windows.
func (m memory) isHigh(gate int, limit float64) bool {
	for i := 1; i < len(m.Marks); i++ {
		if m.Marks[i].minus(m.Marks[i-1].Evidence).Exposed.rate(gate) <= limit {
			return false
		}
	}
	return len(m.Marks) == windows+1
}

// isFeaturesFault reports whether the feature is the cause of what fails a gate. It
// never is for a slow database. For provider failures and slow requests, the
// comparison with the control arm decides.
func (m memory) isFeaturesFault(gate int) bool {
	switch gate {
	case gateDatabase:
		return false
	case gateAll, gateLatency:
		return m.isClearlyWorse(gate)
	}
	return true
}

// isClearlyWorse reports whether the exposed arm fails a gate more often than the
// control arm, beyond chance. It is false if the control arm has too few requests.
func (m memory) isClearlyWorse(gate int) bool {
	e, c := m.recent().Exposed, m.recent().Control
	if c.trials() < minControl {
		return false
	}
	pooled := share(e.bad(gate)+c.bad(gate), e.trials()+c.trials())
	deviation := math.Sqrt(pooled * (1 - pooled) * (1/float64(max(e.trials(), 1)) + 1/float64(c.trials())))
	return e.rate(gate)-c.rate(gate) > clearlyWorse*deviation
}

// findShared returns a finding that makes the stage wait while the node or the
// database fails, on which both arms depend; otherwise an empty one.
func (m memory) findShared(p Plan, now Evidence) finding {
	e := now.minus(m.Marks[max(0, len(m.Marks)-2)].Evidence).Exposed
	if e.SharedFailures < minShared || share(e.SharedFailures, e.trials()) <= p.limit(gateOwn) {
		return finding{}
	}
	return finding{waiting: waitingOutage, detail: fmt.Sprintf("lately %d of %d requests failed because of the node or the database, with or without the feature", e.SharedFailures, e.trials())}
}

// rateDetail describes the rate in the last windows.
func (m memory) rateDetail(gate int, limit float64) string {
	e := m.recent().Exposed
	took := m.Marks[len(m.Marks)-1].At.Sub(m.Marks[0].At)
	return fmt.Sprintf("%d of %d %s in %v minutes, %.1f %% where %.4g %% are allowed", e.bad(gate), e.trials(), gateTexts[gate], math.Round(10*took.Minutes())/10, 100*e.rate(gate), 100*limit)
}

// breachDetail describes a breach without statistics, such as the e-value.
func (m memory) breachDetail(gate int, limit float64, users int64) string {
	without := ""
	if gate == gateAll || gate == gateLatency {
		c := m.recent().Control
		without = fmt.Sprintf(" and without the feature %.1f %%", 100*c.rate(gate))
	}
	return fmt.Sprintf("%s%s, for %d users", m.rateDetail(gate, limit), without, users)
}

// holdDetail describes why the stage waits for a gate whose failures are not the
// feature's fault.
func (m memory) holdDetail(gate int, limit float64) string {
	c := m.recent().Control
	switch {
	case gate == gateDatabase:
		return m.rateDetail(gate, limit) + ": the database is slow"
	case c.trials() < minControl:
		return m.rateDetail(gate, limit) + ", and there is no control arm to compare with"
	}
	return fmt.Sprintf("%s, and so did %d of %d without the feature: the cause is elsewhere", m.rateDetail(gate, limit), c.bad(gate), c.trials())
}
