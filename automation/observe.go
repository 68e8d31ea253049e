package automation

import (
	"context"
	"database/sql"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Observer hears what the module does, for metrics; package metrics has one
// for Prometheus. Its methods are called by many goroutines at once, on the
// path of requests too, so they must not block. Nothing that they are given
// tells users apart.
type Observer interface {
	// ObserveSQL ends a use of the database: what was asked, how long it waited
	// for one of the module's connections, how long it took in all, its error.
	ObserveSQL(name string, wait, took time.Duration, err error)
	// ObserveAPI ends a request to the users' or the operators' API. The route
	// is its pattern, or empty where there is none.
	ObserveAPI(route string, status int, took time.Duration)
	// ObserveChat is called once for each request through Sessions or Forward.
	// The reason is one of the constants of an untouched request, the code of
	// an error, or empty. The overhead is what automation added before the
	// request went on or was refused, reading of its body included.
	ObserveChat(o Outcome, reason string, overhead time.Duration)
	// ObserveSettings is called after a user's settings have been changed.
	ObserveSettings(c SettingsChange)
	// ObserveSession is called with what happens to sessions.
	ObserveSession(e session.Event)
	// ObserveCleanup ends a pass of the clean-up.
	ObserveCleanup(r cleanup.Report, err error)
}

// Outcome is what became of a request on the path of requests.
type Outcome string

// The outcomes.
const (
	Untouched Outcome = "untouched" // automation does not concern it
	Served    Outcome = "served"    // it got its session and, in Forward, its answer
	Refused   Outcome = "refused"   // 4xx
	Failed    Outcome = "failed"    // 5xx
)

// The reasons of an Untouched request.
const (
	AsideMethod   = "method"      // no POST
	AsideMaster   = "master_off"  // the process's master switch is off
	AsideNobody   = "nobody"      // it belongs to nobody
	AsideRollout  = "not_in"      // the user does not have the feature
	AsideOptedOut = "opted_out"   // the user has it off
	AsideSettings = "settings"    // the user's settings could not be read
	AsideSession  = "own_session" // it names a session that is none of ours
)

// CodeInvalidKey is the reason of a Refused request without a valid key.
const CodeInvalidKey = "invalid_api_key"

// SettingsChange is what a change of settings meant.
type SettingsChange string

// The changes of settings.
const (
	OptedIn       SettingsChange = "opt_in"
	OptedOut      SettingsChange = "opt_out"
	OtherSettings SettingsChange = "other" // a duration, or nothing
)

// unobserved is the Observer of a module without one.
type unobserved struct{}

func (unobserved) ObserveSQL(string, time.Duration, time.Duration, error) {}
func (unobserved) ObserveAPI(string, int, time.Duration)                  {}
func (unobserved) ObserveChat(Outcome, string, time.Duration)             {}
func (unobserved) ObserveSettings(SettingsChange)                         {}
func (unobserved) ObserveSession(session.Event)                           {}
func (unobserved) ObserveCleanup(cleanup.Report, error)                   {}

// observed tells the observer of what an API answers. The mux that is h sets
// the request's pattern.
func (m *Module) observed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := m.now()
		s := statusWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(&s, r)
		m.observer.ObserveAPI(r.Pattern, s.status, m.now().Sub(begun))
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Snapshot is how the module is at a moment, as far as it knows without asking
// anybody.
type Snapshot struct {
	MasterOn bool            // the process's master switch
	Parts    map[string]Part // as Parts tells them
	Mapping  mapping.Health
	Pool     sql.DBStats // of the host's pool
	Tripped  bool        // this replica has taken itself out of the rollout
}

// Snapshot tells how things are, without I/O.
func (m *Module) Snapshot() Snapshot {
	return Snapshot{MasterOn: m.cfg.FeatureEnabled, Parts: m.Parts(), Mapping: m.catalog.Health(), Pool: m.pool.Stats(), Tripped: m.recorder.Tripped()}
}

// Census counts the sessions of all replicas that have not ended: one
// statement, by index.
func (m *Module) Census(ctx context.Context) (session.Census, error) { return m.sessions.Census(ctx) }

// Adopters counts the users who have automation switched on or off by settings
// of their own. It reads the whole table, about 0.1 s with a million users.
func (m *Module) Adopters(ctx context.Context) (on, off int64, err error) {
	on, stored, err := m.stored.Adopters(ctx)
	return on, stored - on, err
}

// RolloutStatus tells how all rollouts stand. One that cannot be read is in the
// error.
func (m *Module) RolloutStatus(ctx context.Context) ([]rollout.Status, error) {
	return m.rollouts.List(ctx)
}

// settingsTold returns what tells the observer of a change of a user's
// settings, for which it reads what they are before; without an observer it
// need not.
func (m *Module) settingsTold(ctx context.Context, who Identity) func(settings.Settings) {
	if _, nobody := m.observer.(unobserved); nobody {
		return func(settings.Settings) {}
	}
	was, err := m.settings.Get(ctx, who.UserID)
	return func(is settings.Settings) {
		if err == nil {
			m.observer.ObserveSettings(changeOf(was, is))
		}
	}
}

// changeOf tells what a change of settings meant.
func changeOf(was, is settings.Settings) SettingsChange {
	switch {
	case !was.IsEnabled && is.IsEnabled:
		return OptedIn
	case was.IsEnabled && !is.IsEnabled:
		return OptedOut
	}
	return OtherSettings
}
