package automation

import "context"

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
