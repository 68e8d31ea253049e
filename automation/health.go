package automation

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
)

// Live answers 200 as long as the process serves requests. It checks nothing else,
// so that nobody restarts a gateway because its database is unavailable.
func (m *Module) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = problem.WriteJSON(w, http.StatusOK, map[string]string{"status": "live"})
	})
}

// Component is the health of one thing that the module needs.
type Component struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what is wrong, without internal details: anybody may read it
}

// Ready answers 200 if automation can serve the users who have it, and 503
// otherwise. The body lists each component and what is wrong with it. The host's
// own routes may work while automation is not ready. While the master switch is off,
// nothing is needed and the answer is 200. Ready does no I/O: it reports what earlier
// reads and calls found.
func (m *Module) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		components := m.components()
		status, text := http.StatusOK, "ready"
		for _, c := range components {
			if !c.OK && m.cfg.FeatureEnabled {
				status, text = http.StatusServiceUnavailable, "not ready"
			}
		}
		_ = problem.WriteJSON(w, status, map[string]any{"status": text, "enabled": m.cfg.FeatureEnabled, "parts": components})
	})
}

// components returns the health of each component, by its name.
func (m *Module) components() map[string]Component {
	healthy := Component{OK: true}
	all := map[string]Component{"run": healthy, "mapping": healthy, "flags": healthy, "database": healthy, "node": healthy, "requests": m.recent.component(m.now())}
	if !m.running.Load() {
		all["run"] = Component{Detail: "not running"}
	}
	switch h := m.catalog.Health(); {
	case h.LoadedAt.IsZero():
		all["mapping"] = Component{Detail: "not loaded"}
	case h.Err != nil:
		// The last good table serves, so the replica stays ready.
		all["mapping"] = Component{OK: true, Detail: "the changed file is invalid; the last good one serves"}
	}
	h := m.flags.Health()
	if h.Err != nil {
		all["database"] = Component{Detail: "the last read failed"}
	}
	switch {
	case !h.Loaded:
		all["flags"] = Component{Detail: "never read"}
	case h.Age > max(10*m.cfg.FlagPollInterval, 30*time.Second):
		all["flags"] = Component{Detail: "last read " + h.Age.Round(time.Second).String() + " ago"}
	case slices.ContainsFunc(h.Bad, func(e *flags.RowError) bool { return e.Name == FlagName }):
		all["flags"] = Component{OK: true, Detail: "the row is malformed; the last valid one serves"}
	}
	switch err := m.node.Ready(); {
	case errors.Is(err, session.ErrUnauthorized):
		all["node"] = Component{Detail: "it refuses our credentials"}
	case err != nil:
		all["node"] = Component{Detail: "it does not answer"}
	}
	return all
}

// replicaState is what this replica reports in automation_replicas, for operators.
func (m *Module) replicaState() replica.State {
	h := m.flags.Health()
	s := replica.State{FeatureEnabled: m.cfg.FeatureEnabled, FlagAge: h.Age, Problems: map[string]string{}, Rates: m.requests.Rates(), Figures: m.figures.Figures()}
	if f := m.flags.Flag(FlagName); f != nil {
		s.FlagVersion = f.Version
	}
	for name, c := range m.components() {
		if !c.OK {
			s.Problems[name] = c.Detail
		}
	}
	return s
}
