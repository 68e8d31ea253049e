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

// Live answers 200 as long as the process serves requests. It looks at
// nothing else, so that nobody restarts a gateway whose database is away.
func (m *Module) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = problem.WriteJSON(w, http.StatusOK, map[string]string{"status": "live"})
	})
}

// Component is one thing that the module needs, and how it is.
type Component struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what is wrong, and no more than the public may know
}

// Ready answers 200 when automation can serve whoever has it, and 503 with the
// parts that are not well otherwise. The host's own routes may be fine while
// it is not. While the master switch is off nothing is needed. It asks nobody:
// the answer is what the last work met.
func (m *Module) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		components := m.components()
		status, word := http.StatusOK, "ready"
		for _, p := range components {
			if !p.OK && m.cfg.FeatureEnabled {
				status, word = http.StatusServiceUnavailable, "not ready"
			}
		}
		_ = problem.WriteJSON(w, status, map[string]any{"status": word, "enabled": m.cfg.FeatureEnabled, "parts": components})
	})
}

// components returns how each thing is that the module needs.
func (m *Module) components() map[string]Component {
	well := Component{OK: true}
	parts := map[string]Component{"run": well, "mapping": well, "flags": well, "database": well, "node": well, "requests": m.recent.component(m.now())}
	if !m.running.Load() {
		parts["run"] = Component{Detail: "not running"}
	}
	switch h := m.catalog.Health(); {
	case h.LoadedAt.IsZero():
		parts["mapping"] = Component{Detail: "not loaded"}
	case h.Err != nil:
		// The last good table serves, so this takes nobody out of service.
		parts["mapping"] = Component{OK: true, Detail: "the file's newest state is refused; the last good one serves"}
	}
	h := m.flags.Health()
	if h.Err != nil {
		parts["database"] = Component{Detail: "the last read failed"}
	}
	switch {
	case !h.Loaded:
		parts["flags"] = Component{Detail: "never read"}
	case h.Age > max(10*m.cfg.FlagPollInterval, 30*time.Second):
		parts["flags"] = Component{Detail: "last read " + h.Age.Round(time.Second).String() + " ago"}
	case slices.ContainsFunc(h.Bad, func(e *flags.RowError) bool { return e.Name == FlagName }):
		parts["flags"] = Component{OK: true, Detail: "the row is malformed; the flag stays as it last was"}
	}
	switch err := m.node.Ready(); {
	case errors.Is(err, session.ErrUnauthorized):
		parts["node"] = Component{Detail: "it refuses our credentials"}
	case err != nil:
		parts["node"] = Component{Detail: "it does not answer"}
	}
	return parts
}

// replicaState is what this process reports to the others' operators.
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
