package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Goals are the criteria of success, and what only others know. The zero value
// has the deployment plan's.
type Goals struct {
	Full      time.Duration // how long 100 % must have been watched; 0 is 72 h
	ErrorRate float64       // the share of failures must be below; 0 is 0.01
	Adoption  float64       // the share of users who switched the feature on; 0 is 0.3
	Within    time.Duration // of the beginning, for adoption; 0 is 7 days
	// Adopters returns how many of the users who could switched the feature on
	// between two times, by the database's clock. Nil leaves that open.
	Adopters func(ctx context.Context, from, to time.Time) (adopters, users int, err error)
	// OpenBugs is the number of open P0 and P1 bugs as the operator states it;
	// nil is not stated.
	OpenBugs *int
}

// Verdict is the answer to whether a criterion is met.
type Verdict string

// The verdicts.
const (
	VerdictMet    Verdict = "met"
	VerdictNotMet Verdict = "not_met"
	VerdictOpen   Verdict = "open" // too early to tell, not measured, or not stated
)

// Criterion is one criterion of success.
type Criterion struct {
	Name     string  `json:"name"` // full_rollout, error_rate, adoption, latency, database, open_bugs
	Verdict  Verdict `json:"verdict"`
	Wanted   string  `json:"wanted"`
	Measured string  `json:"measured"`
}

// Report measures a rollout by its criteria of success.
type Report struct {
	Rollout  string      `json:"rollout"`
	State    State       `json:"state"`
	Detail   string      `json:"detail"` // why it waits, is paused or was rolled back
	Epoch    int         `json:"epoch"`
	At       time.Time   `json:"at"`
	Verdict  Verdict     `json:"verdict"` // met if all are, not_met if one is not, otherwise open
	Criteria []Criterion `json:"criteria"`
	// Evidence is that of the last stage in this epoch, or of the one in which
	// the rollout was rolled back or aborted.
	Evidence Evidence `json:"evidence"`
}

// Report measures the current epoch of a rollout. Rates are those of its last
// stage; what was neither measured nor stated is not met.
func (s *Store) Report(ctx context.Context, name string, g Goals) (Report, error) {
	fail := func(err error) (Report, error) { return Report{}, fmt.Errorf("rollout: report(%q): %w", name, err) }
	var r *rollout
	rep, err := sqldb.Read(ctx, s.db, "rollout.report", func(tx *sqldb.Tx) (Report, error) {
		var err error
		if _, r, err = readRollout(tx, name, ""); err == nil && r == nil {
			err = ErrNotFound
		}
		if err != nil {
			return Report{}, err
		}
		var now sqldb.Time
		if err := tx.Get(&now, `SELECT {now}`); err != nil {
			return Report{}, err
		}
		stage := len(r.plan.Stages) - 1
		if r.state == StateRolledBack || r.state == StateAborted {
			stage = r.stage // it came no further
		}
		e, err := sumEvidence(tx, `rollout = $1 AND epoch = $2 AND stage = $3`, name, r.epoch, stage)
		return Report{Rollout: name, State: r.state, Detail: r.memory.Detail, Epoch: r.epoch, At: now.Time, Evidence: e}, err
	})
	if err != nil {
		return fail(err)
	}
	g = g.withDefaults()
	rep.Criteria = []Criterion{
		g.full(*r), g.errorRate(rep.Evidence.Exposed), {},
		r.plan.timing(gateLatency, rep.Evidence.Exposed), r.plan.timing(gateDatabase, rep.Evidence.Exposed), g.bugs(),
	}
	if rep.Criteria[2], err = g.adoption(ctx, *r, rep.At); err != nil {
		return fail(err)
	}
	rep.Verdict = VerdictMet
	for _, one := range rep.Criteria {
		if one.Verdict == VerdictNotMet || one.Verdict == VerdictOpen && rep.Verdict == VerdictMet {
			rep.Verdict = one.Verdict
		}
	}
	return rep, nil
}

func (g Goals) withDefaults() Goals {
	if g.Full == 0 {
		g.Full = 72 * time.Hour
	}
	if g.ErrorRate == 0 {
		g.ErrorRate = .01
	}
	if g.Adoption == 0 {
		g.Adoption = .3
	}
	if g.Within == 0 {
		g.Within = 7 * 24 * time.Hour
	}
	return g
}

func verdict(met bool) Verdict {
	if met {
		return VerdictMet
	}
	return VerdictNotMet
}

func (g Goals) full(r rollout) Criterion {
	watched, share := time.Duration(0), r.plan.Stages[r.stage].Percentage
	if share == 100*flags.Percent && r.isLastStage() {
		watched = r.watched
	}
	c := Criterion{Name: "full_rollout", Verdict: verdict(watched >= g.Full), Wanted: fmt.Sprintf("100 %% for %v", g.Full),
		Measured: fmt.Sprintf("100 %% for %v, %s", watched.Round(time.Second), r.state)}
	switch {
	case r.state == StateRolledBack || r.state == StateAborted:
		c.Verdict = VerdictNotMet
	case !r.state.hasEnded() && c.Verdict == VerdictNotMet:
		c.Verdict = VerdictOpen
	}
	return c
}

func (g Goals) errorRate(n Counts) Criterion {
	c := Criterion{Name: "error_rate", Verdict: verdict(n.ErrorRate() < g.ErrorRate), Wanted: fmt.Sprintf("below %.4g %%", 100*g.ErrorRate),
		Measured: fmt.Sprintf("%.2f %%, %d of %d", 100*n.ErrorRate(), n.Failures, n.Outcomes)}
	if n.Outcomes < minTrials {
		c.Verdict = VerdictOpen
	}
	return c
}

func (g Goals) adoption(ctx context.Context, r rollout, now time.Time) (Criterion, error) {
	c := Criterion{Name: "adoption", Verdict: VerdictOpen, Wanted: fmt.Sprintf("at least %.4g %% within %v", 100*g.Adoption, g.Within), Measured: "not measured"}
	if g.Adopters == nil || r.state == StatePending {
		return c, nil
	}
	end := r.beganAt.Add(g.Within)
	to := end
	if now.Before(end) {
		to = now
	}
	adopters, users, err := g.Adopters(ctx, r.beganAt, to)
	if err != nil {
		return c, fmt.Errorf("adopters: %w", err)
	}
	share := 0.0
	if users > 0 {
		share = float64(adopters) / float64(users)
	}
	c.Measured = fmt.Sprintf("%.1f %%, %d of %d", 100*share, adopters, users)
	if share >= g.Adoption {
		c.Verdict = VerdictMet
	} else if !now.Before(end) {
		c.Verdict = VerdictNotMet
	}
	return c, nil
}

// timing returns whether the plan's gate for a time was kept.
func (p Plan) timing(gate int, n Counts) Criterion {
	c, mean, most := Criterion{Name: "latency"}, n.Latency(), p.LatencyP95
	if gate == gateDatabase {
		c.Name, mean, most = "database", n.DatabaseTime(), p.DatabaseP95
	}
	if most == 0 {
		c.Verdict, c.Wanted, c.Measured = VerdictOpen, "the plan has no gate", fmt.Sprintf("%v on average", mean)
		return c
	}
	c.Verdict = verdict(share(n.bad(gate), n.Outcomes) <= slowShare)
	c.Wanted = fmt.Sprintf("at most %v in 95 %% of the requests", most)
	c.Measured = fmt.Sprintf("more in %.2f %% of %d, %v on average", 100*share(n.bad(gate), n.Outcomes), n.Outcomes, mean)
	if n.Outcomes < minTrials {
		c.Verdict = VerdictOpen
	}
	return c
}

func (g Goals) bugs() Criterion {
	c := Criterion{Name: "open_bugs", Verdict: VerdictOpen, Wanted: "no open P0 or P1 bug", Measured: "not stated"}
	if g.OpenBugs != nil {
		c.Verdict, c.Measured = verdict(*g.OpenBugs == 0), fmt.Sprintf("%d, as stated", *g.OpenBugs)
	}
	return c
}
