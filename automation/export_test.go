package automation

import (
	"context"
	"errors"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/adminapi"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/userapi"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
)

// Routes are the users' API's, as "METHOD /path".
func Routes() []string { return userapi.Routes(BasePath) }

// Maintain is one round of the sessions' maintenance.
func (m *Module) Maintain(ctx context.Context) error { return m.sessions.Maintain(ctx) }

// SetSettingsTimeout sets how long a request waits for its user's settings.
func (o *Options) SetSettingsTimeout(d time.Duration) { o.settingsTimeout = d }

// RefreshFlags reads the flags once.
func (m *Module) RefreshFlags(ctx context.Context) error { return m.flags.Refresh(ctx) }

// CleanUp runs one pass of the clean-up.
func (m *Module) CleanUp(ctx context.Context, dryRun bool) (cleanup.Report, error) {
	return m.cleanup(ctx, dryRun)
}

// Check is what New does with a Config.
func (c Config) Check() error { return c.check() }

// AdminRoutes are the operators' API's, as "METHOD /path".
func AdminRoutes() []string { return adminapi.Routes(AdminPath) }

// Started reports whether Run has come so far that requests are served.
func (m *Module) Started(ctx context.Context) bool {
	_, err := m.sessions.AcquireSession(ctx, "nobody", "none")
	return m.flags.Health().Loaded && !errors.Is(err, session.ErrNotRunning)
}

// Variable is one of the environment's, for docs/environment.md.
type Variable struct{ Name, Default, Bounds string }

// Variables are the table of the environment.
func Variables() []Variable {
	var c Config
	var list []Variable
	for _, v := range c.variables() {
		list = append(list, Variable{v.name, fieldOf(v.name).Tag.Get("envDefault"), v.bounds})
	}
	return list
}

// UnknownIn is UnknownVariables of an environment.
func UnknownIn(environ map[string]string) []string { return unknownVariables(environ) }

// ReplicaFigures is what the process reports of its last five minutes.
func (m *Module) ReplicaFigures() replica.Figures { return m.replicaState().Figures }
