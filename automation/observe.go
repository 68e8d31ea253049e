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

// Observer has functions that the module calls, for metrics; package metrics has an
// Observer for Prometheus. Any of them may be nil. Many goroutines call them at once,
// also while they serve requests, so they must not block.
type Observer struct {
	// SQL is called after each transaction with its name, how long it waited for
	// one of the module's connections, how long it took in all, and its error.
	SQL func(name string, wait, took time.Duration, err error)
	// API is called when a request to the users' or the operators' API has ended.
	API func(outcome.Outcome)
	// Chat is called when a request through Sessions or Forward has ended.
	Chat func(outcome.Outcome)
	// Settings is called after a user's settings have been changed.
	Settings func(before, after settings.Settings)
	// Session is called with what happens to sessions.
	Session func(session.Event)
	// Cleanup is called after a pass of the clean-up, with the number of rows
	// removed from each table.
	Cleanup func(removed map[string]int64, took time.Duration, err error)
}

// withDefaults replaces nil functions. Settings stays nil, because without it the
// API does not need to read a user's previous settings.
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

// Snapshot is the state of the module at one moment, as far as it is known without
// I/O.
type Snapshot struct {
	MasterOn bool // the process's master switch
	// Components are run, mapping, flags, database, node, and requests. The last
	// one is not OK if at least half of this replica's requests of the last one to
	// two minutes failed for reasons that other replicas may not share.
	Components map[string]Component
	Mapping    mapping.Health
	Pool       sql.DBStats // of the host's pool
}

// Snapshot returns the module's state, without I/O.
func (m *Module) Snapshot() Snapshot {
	return Snapshot{MasterOn: m.cfg.FeatureEnabled, Components: m.components(), Mapping: m.catalog.Health(), Pool: m.pool.Stats()}
}

// Stats counts the sessions of all replicas that have not ended. It is one
// statement that uses an index.
func (m *Module) Stats(ctx context.Context) (session.Stats, error) { return m.sessions.Stats(ctx) }

// OptInCounts counts the users who have switched automation on, and those who have
// switched it off. It reads the whole table, which takes about 0.1 s with a million
// users.
func (m *Module) OptInCounts(ctx context.Context) (on, off int64, err error) {
	return m.settings.OptInCounts(ctx)
}

// RolloutStatus returns the state of each rollout. If some rollouts cannot be read,
// the error names them and the list has the others.
func (m *Module) RolloutStatus(ctx context.Context) ([]rollout.Status, error) {
	all, err := m.rollouts.List(ctx)
	var list []rollout.Status
	for _, s := range all {
		list = append(list, rollout.Status(s.Summary()))
	}
	return list, err
}
