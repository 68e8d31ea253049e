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

// Routes returns the routes of the users' API, as "METHOD /path".
func Routes() []string { return userapi.Routes(BasePath) }

// Maintain runs one round of the sessions' maintenance.
func (m *Module) Maintain(ctx context.Context) error { return m.sessions.Maintain(ctx) }

// SetSettingsTimeout sets how long a request waits for its user's settings.
func (o *Options) SetSettingsTimeout(d time.Duration) { o.settingsTimeout = d }

// RefreshFlags reads the flags once.
func (m *Module) RefreshFlags(ctx context.Context) error { return m.flags.Refresh(ctx) }

// CleanUp runs one pass of the clean-up.
func (m *Module) CleanUp(ctx context.Context, dryRun bool) (cleanup.Report, error) {
	return m.cleanup(ctx, dryRun)
}

// Check validates a Config as New does.
func (c Config) Check() error { return c.check() }

// AdminRoutes returns the routes of the operators' API, as "METHOD /path".
func AdminRoutes() []string { return adminapi.Routes(AdminPath) }

// Started reports whether Run has started everything that requests need.
func (m *Module) Started(ctx context.Context) bool {
	_, err := m.sessions.AcquireSession(ctx, "nobody", "none")
	return m.flags.Health().Loaded && !errors.Is(err, session.ErrNotRunning)
}

// Variable is a variable of the environment, for docs/environment.md.
type Variable struct{ Name, Default, Bounds string }

// Variables returns the variables that Config has.
func Variables() []Variable {
	var c Config
	var list []Variable
	for _, v := range c.variables() {
		list = append(list, Variable{v.name, fieldOf(v.name).Tag.Get("envDefault"), v.bounds})
	}
	return list
}

// UnknownIn is UnknownVariables for an environment given as a map.
func UnknownIn(environ map[string]string) []string { return unknownVariables(environ) }

// ReplicaFigures returns what this replica reports of its last five minutes.
func (m *Module) ReplicaFigures() replica.Figures { return m.replicaState().Figures }
