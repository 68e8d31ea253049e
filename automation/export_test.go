package automation

import (
	"context"
	"errors"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/userapi"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// Routes are the users' API's, as "METHOD /path".
func Routes() []string { return userapi.Routes(BasePath) }

// Tend is one round of the sessions' maintenance.
func (m *Module) Tend(ctx context.Context) error { return m.sessions.Maintain(ctx) }

// Started reports whether Run has come so far that requests are served.
func (m *Module) Started(ctx context.Context) bool {
	_, err := m.sessions.AcquireSession(ctx, "nobody", "none")
	return m.flags.Health().Loaded && !errors.Is(err, session.ErrNotRunning)
}
