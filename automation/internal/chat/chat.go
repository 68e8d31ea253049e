// Package chat serves requests in OpenAI's shape on paid sessions.
//
// A [Service] admits each request: it identifies the user, decides whether
// automation acts on the request, finds the model in the body, and acquires a
// session. [Service.Middleware] then passes the request to the host's handler;
// [Service.Forwarder] sends it to the node and relays the answer. Both record one
// outcome for each request, from which metrics and log lines are derived.
package chat

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/reqbody"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Deps are what a Service works with. All are required.
type Deps struct {
	Enabled  bool // the process's master switch
	Identify identity.Func
	Decide   func(userID string) flags.Decision
	// FlagsLoaded reports whether the flags have been read. Until then Decide
	// decides that nobody has the feature.
	FlagsLoaded func() bool
	Settings    Settings
	Models      Models
	Sessions    Sessions
	Node        Node
	// Record is called once for each request, when it has ended.
	Record func(context.Context, outcome.Outcome)
	// MaxBodyBytes bounds a request's body. In Middleware it bounds only the part
	// that is read to find the model.
	MaxBodyBytes int64
	// MaxBufferedBytes bounds the memory that the bodies of all requests take.
	MaxBufferedBytes int64
	Logger           *slog.Logger
	Now              func() time.Time
}

// Settings reads what users have chosen. *settings.Store implements it.
type Settings interface {
	GetCached(ctx context.Context, userID string) (settings.Settings, error)
}

// Models resolves and lists the models. *mapping.Catalog implements it.
type Models interface {
	Resolve(name string, want mapping.Type) (mapping.Model, error)
	Table() *mapping.Table
}

// Sessions hands out sessions. *session.Manager implements it.
type Sessions interface {
	Acquire(ctx context.Context, r session.Request) (*session.Claim, error)
	AcquireSession(ctx context.Context, userID string, id session.ID) (*session.Claim, error)
	Replace(ctx context.Context, old *session.Claim, r session.Replacement) (*session.Claim, error)
}

// Node is the Morpheus node. *proxyrouter.Client implements it.
type Node interface {
	Forward(ctx context.Context, r proxyrouter.ChatRequest) (*http.Response, error)
	RatedBids(ctx context.Context, modelID string) ([]proxyrouter.Bid, error)
	Classify(status int, header http.Header, body []byte) proxyrouter.ChatError
	InitiateSession(ctx context.Context, id string) error
}

// Service serves requests in OpenAI's shape.
type Service struct {
	Deps
	bodies  *reqbody.Budget
	answers *relay.Relay
	missing missingRoutes
}

// New makes a Service.
func New(d Deps) *Service {
	return &Service{Deps: d, bodies: reqbody.NewBudget(d.MaxBufferedBytes), answers: relay.New()}
}

// StopDraining ends the answers of clients that have left, which are only read
// to learn when the node is done. Other requests continue.
func (s *Service) StopDraining() { s.answers.StopDraining() }

// Close ends all answers that are still being read from the node, and returns
// when their sessions have been released.
func (s *Service) Close() { s.answers.Close() }
