package proxyrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// initiateTimeout is longer than a read's: the node asks the provider.
const initiateTimeout = 30 * time.Second

// InitiateSession introduces the node and an open session's provider to each
// other again, after one of them has lost its storage. It costs nothing, sends no
// transaction, and can be repeated. It reads the session from the chain first, so
// it can return [session.ErrSessionNotFound].
func (c *Client) InitiateSession(ctx context.Context, id string) error {
	id, err := pathID(id)
	if err != nil {
		return fmt.Errorf("proxyrouter: %s: %w", opInitiate, err)
	}
	s, err := c.readSession(ctx, id)
	if err != nil {
		return err
	}
	endpoint, err := c.providerEndpoint(ctx, s.Provider)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{
		"user":        s.User,
		"provider":    s.Provider,
		"spend":       strings.Trim(string(s.Stake), `"`),
		"providerUrl": endpoint,
		"bidId":       s.BidID,
	})
	if err != nil {
		return fmt.Errorf("proxyrouter: %s: %w", opInitiate, err)
	}
	// On a new connection: a kept-alive one may be dead, and a POST is not repeated.
	_, err = c.do(ctx, c.transactionCall(opInitiate, "/proxy/sessions/initiate", string(body), initiateTimeout))
	return err
}

// providerEndpoint returns the network address of a provider, from the registry.
func (c *Client) providerEndpoint(ctx context.Context, provider string) (string, error) {
	resp, err := c.do(ctx, c.readCall(opProviders, "/blockchain/providers"))
	if err != nil {
		return "", err
	}
	var wire struct {
		Providers []struct{ Address, Endpoint string } `json:"providers"`
	}
	if err := unmarshal(resp.body, &wire); err != nil {
		return "", c.malformed(opProviders, resp, err)
	}
	for _, p := range wire.Providers {
		if strings.EqualFold(p.Address, provider) && p.Endpoint != "" {
			return p.Endpoint, nil
		}
	}
	return "", c.malformed(opProviders, resp, errors.New("a response without the session's provider"))
}
