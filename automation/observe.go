package automation

import (
	"context"
	"database/sql"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Observer receives what the module does, for metrics; package metrics has one
// for Prometheus. A nil function receives nothing. They are called by many
// goroutines at once, on the path of requests too, so they must not block.
type Observer struct {
	// SQL ends a use of the database: what was asked, how long it waited for
	// one of the module's connections, how long it took in all, its error.
	SQL func(name string, wait, took time.Duration, err error)
	// API ends a request to the users' or the operators' API.
	API func(outcome.Outcome)
	// Chat ends a request through Sessions or Forward.
	Chat func(outcome.Outcome)
	// Settings is called after a user's settings have been changed.
	Settings func(before, after settings.Settings)
	// Session is called with what happens to sessions.
	Session func(session.Event)
	// Cleanup ends a pass of the clean-up, which removed rows from tables.
	Cleanup func(removed map[string]int64, took time.Duration, err error)
}

// withDefaults fills what is nil, but for Settings: without it nobody has to
// read what a user's settings were before.
func (o Observer) withDefaults() Observer {
	if o.SQL == nil {
		o.SQL = func(string, time.Duration, time.Duration, error) {}
	}
	if o.API == nil {
		o.API = func(outcome.Outcome) {}
	}
	if o.Chat == nil {
		o.Chat = func(outcome.Outcome) {}
	}
	if o.Session == nil {
		o.Session = func(session.Event) {}
	}
	if o.Cleanup == nil {
		o.Cleanup = func(map[string]int64, time.Duration, error) {}
	}
	return o
}

// Snapshot is the state of the module at one moment, as it is known without a query
// of the database or a call of the node.
type Snapshot struct {
	MasterOn bool // the process's master switch
	// Components are run, mapping, flags, database, node, and requests, which is
	// not well where most of this replica's requests have failed of late for
	// reasons that other replicas may not share.
	Components map[string]Component
	Mapping    mapping.Health
	Pool       sql.DBStats // of the host's pool
}

// Snapshot returns how things are, without I/O.
func (m *Module) Snapshot() Snapshot {
	return Snapshot{MasterOn: m.cfg.FeatureEnabled, Components: m.components(), Mapping: m.catalog.Health(), Pool: m.pool.Stats()}
}

// Stats counts the sessions of all replicas that have not ended: one statement,
// by index.
func (m *Module) Stats(ctx context.Context) (session.Stats, error) { return m.sessions.Stats(ctx) }

// OptInCounts counts the users who have automation switched on or off by
// settings of their own. It reads the whole table, about 0.1 s with a million
// users.
func (m *Module) OptInCounts(ctx context.Context) (on, off int64, err error) {
	return m.settings.OptInCounts(ctx)
}

// RolloutStatus returns how all rollouts stand. One that cannot be read is in
// the error.
func (m *Module) RolloutStatus(ctx context.Context) ([]rollout.Status, error) {
	all, err := m.rollouts.List(ctx)
	var list []rollout.Status
	for _, s := range all {
		list = append(list, rollout.Status(s.Summary()))
	}
	return list, err
}
