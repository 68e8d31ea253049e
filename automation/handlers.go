package automation

import (
	"context"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/adminapi"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/chat"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/userapi"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	// BasePath is the path to mount [Module.API] at.
	BasePath = "/api/v1/automation"
	// AdminPath is the path to mount [Module.Admin] at.
	AdminPath = "/admin/automation"
)

// Sessions is the session middleware; the package's comment says what it does with
// a request. Mount it on OpenAI's routes only, because any POST through it may open
// a session. The handler finds the session in the request's header session_id. It
// should stop when the request's context ends; the context also ends when the
// session's lease is lost.
func (m *Module) Sessions(next http.Handler) http.Handler { return m.chat.Middleware(next) }

// Forward sends requests to the node and relays its answers as they come. A
// request without a valid key is answered 401, because the node is called with
// the gateway's credentials. A request that automation does not act on is sent on
// the session that its client names, and is answered 400 if it names none. Forward
// tries at most one remedy for a failure before the first byte of the answer; the
// package's comment lists them.
func (m *Module) Forward() http.Handler { return m.chat.Forwarder() }

// Models serves the models of the mapping in OpenAI's shape: the list for paths
// that end in /models, and one model for /models/{id}, whose id may contain
// slashes. Forward serves them as well.
func (m *Module) Models() http.Handler { return m.chat.ServeModels() }

// API is the users' HTTP API, for [BasePath] + "/". A user can read and change only
// their own data. While the feature is off for a user, only the status is served, and
// feedback if the user had the feature before; other routes answer 404. Errors are
// application/problem+json; the document that [Module.OpenAPI] serves lists all of
// them.
func (m *Module) API() http.Handler { return m.api }

// Authorize returns the name of the operator who makes a request. The audit records
// that name. A request for which it returns an error is answered 401.
type Authorize func(*http.Request) (actor string, err error)

// Admin is the operators' HTTP API, for [AdminPath] + "/". If authorize is nil, a
// request needs the bearer token AUTOMATION_ADMIN_TOKEN, and without such a token in
// the Config every route answers 404; the audit then records "admin", or "admin:"
// followed by the header X-Automation-Actor. No GET changes anything.
func (m *Module) Admin(authorize Authorize) http.Handler {
	if authorize == nil {
		token := m.cfg.AdminToken.Reveal()
		if token == "" {
			return adminapi.NotFound()
		}
		authorize = adminapi.ByToken(token, m.now, m.log)
	}
	audit := flagsql.NewAudit(m.pool, sqldb.Options{MaxConns: 1, Observe: m.observer.SQL})
	return adminapi.New(adminapi.Deps{
		BasePath: AdminPath, Authorize: authorize, Explain: m.flags.Explain,
		Store: m.store, Audit: audit, Rollouts: m.rollouts, Refresh: m.flags.Trigger,
		RecordAction: func(ctx context.Context, a flagsql.Action, actor string, after map[string]any) error {
			return audit.Record(ctx, FlagName, a, actor, after)
		},
		Cleanup: m.cleanup, Report: m.report, Overview: m.overview, Failures: m.fleet.Failures, Feedback: m.feedback, Settings: m.settings, Sessions: m.sessions, ListSessions: m.fleet.Sessions,
		Models: m.catalog, ModelName: m.modelName, Record: m.recordAPI, Now: m.now,
	})
}

// newHandlers makes the chat path and the users' API.
func (m *Module) newHandlers(identify Identify) {
	identifyUser := m.identifier(identify)
	m.chat = chat.New(chat.Deps{
		Enabled: m.cfg.FeatureEnabled, Identify: identifyUser, Decide: m.decide, FlagsLoaded: m.flagsLoaded, Settings: m.settings, Models: m.catalog,
		Sessions: m.sessions, Node: m.node, Record: m.recordChat, MaxBodyBytes: m.cfg.MaxBodyBytes, MaxBufferedBytes: m.cfg.MaxBufferedBytes,
		Logger: m.log, Now: m.now,
	})
	m.api = userapi.New(userapi.Deps{
		BasePath: BasePath, Enabled: m.cfg.FeatureEnabled, Identify: identifyUser, Decide: m.decide, FlagsLoaded: m.flagsLoaded,
		Flag:     func() *flags.Flag { return m.flags.Flag(FlagName) },
		Settings: m.settings, Sessions: m.sessions, Feedback: m.feedback, FlagName: FlagName, ModelName: m.modelName,
		MinDuration: m.cfg.MinSessionDuration, MaxDuration: m.cfg.MaxSessionDuration,
		Changed: m.observer.Settings, Record: m.recordAPI, Logger: m.log, Now: m.now,
	})
}

// decide returns the flag's decision for a user.
func (m *Module) decide(userID string) flags.Decision { return m.flags.Decide(FlagName, userID) }

func (m *Module) flagsLoaded() bool { return m.flags.Health().Loaded }

// modelName returns the name of the model with that id, or the id if no name maps to
// it.
func (m *Module) modelName(id string) string {
	if model, err := m.catalog.Resolve(id, ""); err == nil {
		return model.Name
	}
	return id
}
