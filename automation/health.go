package automation

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// Live answers 200 as long as the process serves requests. It looks at
// nothing else, so that nobody restarts a gateway whose database is away.
func (m *Module) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = problem.WriteJSON(w, http.StatusOK, map[string]string{"status": "live"})
	})
}

// Part is one thing that the module needs, and how it is.
type Part struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what is wrong, and no more than the public may know
}

// Ready answers 200 when automation can serve whoever has it, and 503 with the
// parts that are not well otherwise. The host's own routes may be fine while
// it is not. While the master switch is off nothing is needed. It asks nobody:
// the answer is what the last work met.
func (m *Module) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		parts := m.Parts()
		status, word := http.StatusOK, "ready"
		for _, p := range parts {
			if !p.OK && m.cfg.FeatureEnabled {
				status, word = http.StatusServiceUnavailable, "not ready"
			}
		}
		_ = problem.WriteJSON(w, status, map[string]any{"status": word, "enabled": m.cfg.FeatureEnabled, "parts": parts})
	})
}

// Parts tells how the parts are: run, mapping, flags, database, node.
func (m *Module) Parts() map[string]Part {
	well := Part{OK: true}
	parts := map[string]Part{"run": well, "mapping": well, "flags": well, "database": well, "node": well}
	if !m.running.Load() {
		parts["run"] = Part{Detail: "not running"}
	}
	switch h := m.catalog.Health(); {
	case h.LoadedAt.IsZero():
		parts["mapping"] = Part{Detail: "not loaded"}
	case h.Err != nil:
		// The last good table serves, so this takes nobody out of service.
		parts["mapping"] = Part{OK: true, Detail: "the file's newest state is refused; the last good one serves"}
	}
	h := m.flags.Health()
	if h.Err != nil {
		parts["database"] = Part{Detail: "the last read failed"}
	}
	switch {
	case !h.Loaded:
		parts["flags"] = Part{Detail: "never read"}
	case h.Age > max(10*m.cfg.FlagPollInterval, 30*time.Second):
		parts["flags"] = Part{Detail: "last read " + h.Age.Round(time.Second).String() + " ago"}
	case slices.ContainsFunc(h.Bad, func(e *flags.RowError) bool { return e.Name == FlagName }):
		parts["flags"] = Part{OK: true, Detail: "the row is malformed; the flag stays as it last was"}
	}
	switch err := m.node.Ready(); {
	case errors.Is(err, session.ErrUnauthorized):
		parts["node"] = Part{Detail: "it refuses our credentials"}
	case err != nil:
		parts["node"] = Part{Detail: "it does not answer"}
	}
	return parts
}
