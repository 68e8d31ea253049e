package automation

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// Node is the client of a Morpheus node; *proxyrouter.Client implements it. If a Node
// has a method Run(context.Context), Module.Run calls it while the master switch is
// on.
type Node interface {
	session.Provider
	Forward(ctx context.Context, r proxyrouter.ChatRequest) (*http.Response, error)
	RatedBids(ctx context.Context, modelID string) ([]proxyrouter.Bid, error)
	Classify(status int, header http.Header, body []byte) proxyrouter.ChatError
	InitiateSession(ctx context.Context, id string) error
	Ready() error
}

// newNode makes the node's client. A module whose master switch is off may have no
// node.
func (m *Module) newNode(opts Options) error {
	switch {
	case opts.Node != nil:
		m.node = opts.Node
		return nil
	case m.cfg.ProxyRouterURL == "":
		m.node = noNode{}
		return nil
	}
	client, err := proxyrouter.New(proxyrouter.Options{URL: m.cfg.ProxyRouterURL, Username: m.cfg.ProxyRouterUsername,
		Password: m.cfg.ProxyRouterPassword.Reveal(), OpenTimeout: m.cfg.OpenTimeout, HTTPClient: opts.HTTPClient, Logger: m.log})
	m.node = client
	return err
}

// registryOf returns the function by which the catalog lists the models of a node's
// registry, or nil if the Node cannot list them.
func registryOf(n Node) func(context.Context) ([]mapping.Model, error) {
	lister, ok := n.(interface {
		Models(ctx context.Context) ([]proxyrouter.Model, error)
	})
	if !ok {
		return nil
	}
	return func(ctx context.Context) ([]mapping.Model, error) {
		models, err := lister.Models(ctx)
		var list []mapping.Model
		for _, m := range models {
			if !m.Deleted {
				list = append(list, mapping.Model{ID: m.ID, Type: mapping.Type(m.Type), Created: m.Created})
			}
		}
		return list, err
	}
}

// noNode is the Node of a module that has none; every call fails.
type noNode struct{ session.Provider }

var errNoNode = fmt.Errorf("automation: PROXY_ROUTER_URL is empty: %w", session.ErrUnavailable)

func (noNode) Ready() error { return nil }

func (noNode) CloseSession(context.Context, string) error { return errNoNode }

func (noNode) OpenSession(context.Context, session.OpenRequest) (string, error) {
	return "", errNoNode
}

func (noNode) GetSession(context.Context, string) (session.ChainSession, error) {
	return session.ChainSession{}, errNoNode
}

func (noNode) WalletSessions(context.Context, time.Time) ([]session.ChainSession, error) {
	return nil, errNoNode
}

func (noNode) Forward(context.Context, proxyrouter.ChatRequest) (*http.Response, error) {
	return nil, errNoNode
}

func (noNode) RatedBids(context.Context, string) ([]proxyrouter.Bid, error) { return nil, errNoNode }

func (noNode) InitiateSession(context.Context, string) error { return errNoNode }

func (noNode) Classify(int, http.Header, []byte) proxyrouter.ChatError {
	return proxyrouter.ChatError{Cause: outcome.Node, Status: http.StatusServiceUnavailable}
}
