package automation

import (
	"context"
	"errors"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// Routes are the users' API's, as "METHOD /path".
func Routes() []string {
	var list []string
	for _, r := range (&Module{}).routes() {
		list = append(list, r.method+" "+BasePath+r.path)
	}
	return list
}

// StoredID is storedID.
var StoredID = storedID

// Tend is one round of the sessions' maintenance.
func (m *Module) Tend(ctx context.Context) error { return m.sessions.Tend(ctx) }

// Started tells whether Run has come so far that requests are served.
func (m *Module) Started(ctx context.Context) bool {
	_, err := m.sessions.AcquireSession(ctx, "nobody", "none")
	return m.flags.Health().Loaded && !errors.Is(err, session.ErrNotRunning)
}
