package rollout

import (
	"fmt"
	"math"
	"time"
)

// The gates of a plan: what makes an outcome a bad one.
const (
	gateOwn      = iota // the feature's own failures
	gateAll             // with the provider's; compared with the control arm
	gateLatency         // likewise compared
	gateDatabase        // holds the stage, and never rolls back
	gates
)

var gateNames = [gates]string{
	"requests failed",
	"requests failed here or at their provider",
	"requests took longer than the plan's latency",
	"requests spent longer in the database than the plan allows",
}

var gateKinds = [gates][]failureKind{{kindFailure}, {kindFailure, kindProvider}, {kindSlow}, nil}

// isCompared reports whether a gate is failed only beyond the control arm's rate.
func isCompared(gate int) bool { return gate == gateAll || gate == gateLatency }

// slowShare is the share of requests that may be slower than a gate: a 95th percentile.
const slowShare = .05

// bad returns how many outcomes fail a gate.
func (c Counts) bad(gate int) int64 {
	return [gates]int64{c.Failures - c.ProviderFailures, c.Failures, c.Slow, c.DatabaseSlow}[gate]
}

// trials are the requests among which bad ones are counted. A shared failure is
// not the feature's, but its request could have failed for the feature.
func (c Counts) trials() int64 { return c.Outcomes + c.SharedFailures }

func (c Counts) rate(gate int) float64 { return share(c.bad(gate), c.trials()) }

// limit is the share of bad outcomes that a gate allows; 1 is no gate.
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
	// A rollback needs a rate above the limit in each of the last windows,
	// which cover two minutes at least: what is over after one is no reason.
	windows   = 4
	windowMin = 30 * time.Second
	// windowTrials is the least of a window, which lasts until they are there.
	windowTrials = 5
	// minTrials is the least for any verdict.
	minTrials = 20
	// minShared failures hold a stage.
	minShared = 5
	// minControl is how many requests of the control arm say something.
	minControl = 10
	// clearlyWorse is how many standard errors the exposed arm must be above
	// the control arm to be at fault.
	clearlyWorse = 4
)

// memory is what the evaluations of a stage run keep from one to the next. The
// zero value is that of a run's beginning.
type memory struct {
	Seen  Evidence    `json:"seen"`           // by the last evaluation
	At    time.Time   `json:"at"`             // of the last evaluation
	Tests [gates]test `json:"tests"`          // sequential
	Marks []mark      `json:"marks"`          // where the last windows begin, and where the last one ends
	Hold  *int        `json:"hold,omitempty"` // the gate that holds the stage
	Few   string      `json:"few,omitempty"`  // that too few users fail
	// Quarters of the hold that have had their samples, and the outcomes then.
	Quarters        int64 `json:"quarters"`
	QuarterOutcomes int64 `json:"quarter_outcomes"`
	// FlagSeed is the flag's seed as the rollout left it; nil is unknown.
	FlagSeed *string `json:"flag_seed,omitempty"`
	// SteppedBack says that the rollout came here by a step back: the next
	// breach switches off.
	SteppedBack bool   `json:"stepped_back,omitempty"`
	Minute      int64  `json:"minute"` // the last that was saved
	Detail      string `json:"detail"` // why the stage waits
}

// test is the sequential test of one gate.
type test struct {
	Base    int64    `json:"base"` // the trials before it
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

// update takes all the evidence of a stage run up to at, and returns what to
// remember and what was found.
func (m memory) update(p Plan, now Evidence, at time.Time, users userCounter) (memory, finding, error) {
	if now.Exposed.trials() < m.Seen.Exposed.trials() {
		m.Tests, m.Marks, m.Seen = [gates]test{}, []mark{{at, now}}, now // somebody removed counters
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
	if m.Hold != nil && (m.recent().Exposed.rate(*m.Hold) <= p.limit(*m.Hold) || isCompared(*m.Hold) && m.isClearlyWorse(*m.Hold)) {
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
			*t = test{Base: now.Exposed.trials()} // the feature is not the cause of what users meet: no evidence
			continue
		}
		fresh := now.Exposed.minus(m.Seen.Exposed)
		t.EValues = t.EValues.next(limit, elapsed, fresh.trials(), fresh.bad(gate))
		over := t.EValues.log() >= math.Log(eValueLimit) && now.Exposed.trials()-t.Base >= minTrials
		if !over {
			continue
		}
		if !m.isHigh(gate, limit) {
			if few == "" {
				few = m.Few // until the test no longer objects
			}
			continue
		}
		if gate == gateAll && few != "" {
			continue // the same failures
		}
		if gate == gateDatabase || isCompared(gate) && !m.isClearlyWorse(gate) {
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
		few = fmt.Sprintf("%s, but for %d users, and only %d would be reason to roll back", m.rateDetail(gate, limit), n, p.MinUsers)
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

// addMark ends the current window where it is long enough.
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

// recent is the evidence of the windows that have ended.
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

// isClearlyWorse reports whether more of the exposed arm's requests fail a gate
// than of the control arm's, beyond chance. Without a control arm it is false.
func (m memory) isClearlyWorse(gate int) bool {
	e, c := m.recent().Exposed, m.recent().Control
	if c.trials() < minControl {
		return false
	}
	pooled := share(e.bad(gate)+c.bad(gate), e.trials()+c.trials())
	deviation := math.Sqrt(pooled * (1 - pooled) * (1/float64(max(e.trials(), 1)) + 1/float64(c.trials())))
	return e.rate(gate)-c.rate(gate) > clearlyWorse*deviation
}

// findShared holds the stage while what both arms depend on fails.
func (m memory) findShared(p Plan, now Evidence) finding {
	e := now.minus(m.Marks[max(0, len(m.Marks)-2)].Evidence).Exposed
	if e.SharedFailures < minShared || share(e.SharedFailures, e.trials()) <= p.limit(gateOwn) {
		return finding{}
	}
	return finding{waiting: waitingOutage, detail: fmt.Sprintf("lately %d of %d requests failed because of the node or the database, with or without the feature", e.SharedFailures, e.trials())}
}

// rateDetail quotes the windows that are above the limit.
func (m memory) rateDetail(gate int, limit float64) string {
	e := m.recent().Exposed
	took := m.Marks[len(m.Marks)-1].At.Sub(m.Marks[0].At)
	return fmt.Sprintf("%d of %d %s in %v minutes, %.1f %% where %.4g %% are allowed", e.bad(gate), e.trials(), gateNames[gate], math.Round(10*took.Minutes())/10, 100*e.rate(gate), 100*limit)
}

// breachDetail is the reason of a way back, in figures that need no statistics:
// the test's e-value stays in its state.
func (m memory) breachDetail(gate int, limit float64, users int64) string {
	without := ""
	if isCompared(gate) {
		c := m.recent().Control
		without = fmt.Sprintf(" and without the feature %.1f %%", 100*c.rate(gate))
	}
	return fmt.Sprintf("%s%s, for %d users", m.rateDetail(gate, limit), without, users)
}

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
