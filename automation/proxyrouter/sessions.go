package proxyrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// OpenSession opens one paid session and returns its id. It sends the request at
// most once. [session.Provider] and the package's comment say what its errors mean.
func (c *Client) OpenSession(ctx context.Context, req session.OpenRequest) (string, error) {
	seconds := int64(req.Duration / time.Second)
	model, err := pathID(req.ModelID)
	if err != nil {
		return "", fmt.Errorf("proxyrouter: %s: model: %w: %w", opOpen, err, session.ErrNotOpened)
	}
	if seconds <= 0 {
		return "", fmt.Errorf("proxyrouter: %s: a duration of %v: %w", opOpen, req.Duration, session.ErrNotOpened)
	}
	body, err := json.Marshal(struct {
		SessionDuration int64  `json:"sessionDuration"`
		DirectPayment   bool   `json:"directPayment"`
		Failover        bool   `json:"failover"` // true would let the node replace the session
		OmitProvider    string `json:"omitProvider,omitempty"`
	}{SessionDuration: seconds, OmitProvider: req.OmitProvider})
	if err != nil {
		return "", fmt.Errorf("proxyrouter: %s: %w: %w", opOpen, err, session.ErrNotOpened)
	}
	resp, err := c.do(ctx, c.transactionCall(opOpen, "/blockchain/models/"+model+"/session", string(body), c.opts.OpenTimeout))
	if err != nil {
		return "", err
	}
	id, err := decodeOpened(resp.body)
	if err != nil {
		return "", c.malformed(opOpen, resp, err)
	}
	if req.OmitProvider != "" {
		c.checkOmitted(ctx, id, req.OmitProvider)
	}
	return id, nil
}

// CloseSession closes a session. Closing one that is closed already, or that the
// chain does not know, is a success. It reads the session first, because the node
// takes many seconds to refuse the close of a closed one. After a failed close it
// reads the session again, because the text of the failure depends on the chain's
// RPC endpoint.
func (c *Client) CloseSession(ctx context.Context, id string) error {
	id, err := pathID(id)
	if err != nil {
		return fmt.Errorf("proxyrouter: %s: %w", opClose, err)
	}
	if open, err := c.isOpen(ctx, id); err != nil || !open {
		return err
	}
	resp, err := c.do(ctx, c.transactionCall(opClose, "/blockchain/sessions/"+id+"/close", "{}", closeTimeout))
	if err == nil || resp.status/100 == 2 { // the status suffices, even if the body is incomplete
		return nil
	}
	if open, readErr := c.isOpen(ctx, id); readErr == nil && !open {
		return nil
	}
	return err
}

// isOpen reports whether the chain knows the session and it is not closed.
func (c *Client) isOpen(ctx context.Context, id string) (bool, error) {
	s, err := c.GetSession(ctx, id)
	if errors.Is(err, session.ErrSessionNotFound) {
		return false, nil
	}
	return err == nil && s.ClosedAt.IsZero(), err
}

// GetSession reads one session from the chain. It returns
// [session.ErrSessionNotFound] only if the chain has no such session.
func (c *Client) GetSession(ctx context.Context, id string) (session.ChainSession, error) {
	id, err := pathID(id)
	if err != nil {
		return session.ChainSession{}, fmt.Errorf("proxyrouter: %s: %w", opGet, err)
	}
	w, err := c.readSession(ctx, id)
	return w.ChainSession, err
}

func (c *Client) readSession(ctx context.Context, id string) (wireSession, error) {
	resp, err := c.do(ctx, c.readCall(opGet, "/blockchain/sessions/"+id))
	if err != nil {
		return wireSession{}, err
	}
	w, err := decodeSession(resp.body)
	if err == nil && w.ID != id {
		err = errors.New("a response with another session")
	}
	if err != nil {
		return wireSession{}, c.malformed(opGet, resp, err)
	}
	return w, nil
}

// The first page is small, because callers nearly always want the newest few
// sessions; 255 is the node's maximum.
const firstPage, nextPage = 20, 255

// WalletSessions lists the wallet's sessions opened at or after since, the newest
// first. It reads pages until one contains a session older than since.
func (c *Client) WalletSessions(ctx context.Context, since time.Time) ([]session.ChainSession, error) {
	address, cached, err := c.walletAddress(ctx)
	if err != nil {
		return nil, err
	}
	found, err := c.listSessions(ctx, address, since)
	if err != nil || len(found) > 0 || !cached {
		return found, err
	}
	// The list is also empty if the cached address is no longer the wallet's: the
	// node may have been restarted with another wallet.
	c.forgetWallet()
	current, _, err := c.walletAddress(ctx)
	if err != nil || current == address {
		return nil, err
	}
	return c.listSessions(ctx, current, since)
}

func (c *Client) listSessions(ctx context.Context, address string, since time.Time) ([]session.ChainSession, error) {
	since = since.Truncate(time.Second)
	var (
		found  []session.ChainSession
		seen   = make(map[string]bool)
		sorted = true // if the node breaks its promised order, every page is read
		last   time.Time
	)
	for offset, limit := 0, firstPage; ; offset, limit = offset+limit, nextPage {
		page, err := c.sessionsPage(ctx, address, offset, limit)
		if err != nil {
			return nil, err
		}
		hasNew := false
		for _, s := range page {
			if seen[s.ID] { // a session opened meanwhile shifted the others into this page
				continue
			}
			seen[s.ID], hasNew = true, true
			sorted = sorted && (last.IsZero() || !s.OpenedAt.After(last))
			last = s.OpenedAt
			if !s.OpenedAt.Before(since) {
				found = append(found, s)
			}
		}
		switch {
		case len(page) < limit, sorted && last.Before(since):
			slices.SortStableFunc(found, func(a, b session.ChainSession) int { return b.OpenedAt.Compare(a.OpenedAt) })
			return found, nil
		case !hasNew:
			return nil, &nodeError{op: opSessions, status: 200, message: fmt.Sprintf("the page at offset %d repeats the one before", offset)}
		}
	}
}

func (c *Client) sessionsPage(ctx context.Context, address string, offset, limit int) ([]session.ChainSession, error) {
	k := c.readCall(opSessions, "/blockchain/sessions/user")
	k.query = url.Values{
		"user":   {address},
		"offset": {strconv.Itoa(offset)},
		"limit":  {strconv.Itoa(limit)},
		"order":  {"desc"},
	}
	resp, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	page, err := decodeSessions(resp.body)
	if err != nil {
		return nil, c.malformed(opSessions, resp, err)
	}
	return page, nil
}

// wallet is the cached address of the node's wallet.
type wallet struct {
	address string
	until   time.Time
}

// walletTTL is short because a node may be restarted with another wallet.
const walletTTL = time.Minute

// walletAddress returns the address of the node's wallet, and whether it comes
// from the cache.
func (c *Client) walletAddress(ctx context.Context) (address string, cached bool, err error) {
	c.walletMu.Lock()
	known := c.wallet
	c.walletMu.Unlock()
	if known.address != "" && c.opts.Now().Before(known.until) {
		return known.address, true, nil
	}
	resp, err := c.do(ctx, c.readCall(opWallet, "/wallet"))
	if err != nil {
		return "", false, err
	}
	address, err = decodeWallet(resp.body)
	if err != nil {
		return "", false, c.malformed(opWallet, resp, err)
	}
	c.walletMu.Lock()
	c.wallet = wallet{address: address, until: c.opts.Now().Add(walletTTL)}
	c.walletMu.Unlock()
	return address, false, nil
}

func (c *Client) forgetWallet() {
	c.walletMu.Lock()
	c.wallet = wallet{}
	c.walletMu.Unlock()
}
