package proxyrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// OpenSession opens one paid session and returns its id; see [session.Provider]
// and [NodeError] for what its errors mean. It sends the request at most once.
func (c *Client) OpenSession(ctx context.Context, req session.OpenRequest) (string, error) {
	seconds := int64(req.Duration / time.Second)
	if err := segment(req.ModelID); err != nil {
		return "", fmt.Errorf("proxyrouter: %s: model: %w: %w", opOpen, err, session.ErrNotOpened)
	}
	if seconds <= 0 {
		return "", fmt.Errorf("proxyrouter: %s: a duration of %v: %w", opOpen, req.Duration, session.ErrNotOpened)
	}
	body, err := json.Marshal(struct {
		SessionDuration int64  `json:"sessionDuration"`
		DirectPayment   bool   `json:"directPayment"`
		Failover        bool   `json:"failover"` // true would swap the session under us
		OmitProvider    string `json:"omitProvider,omitempty"`
	}{SessionDuration: seconds, OmitProvider: req.OmitProvider})
	if err != nil {
		return "", fmt.Errorf("proxyrouter: %s: %w: %w", opOpen, err, session.ErrNotOpened)
	}
	a, err := c.do(ctx, c.transaction(opOpen, "/blockchain/models/"+req.ModelID+"/session", string(body), c.opts.OpenTimeout))
	if err != nil {
		return "", err
	}
	id, err := decodeOpened(a.body)
	if err != nil {
		return "", c.malformed(opOpen, a, err)
	}
	return id, nil
}

// CloseSession closes a session. Closed already, or unknown to the chain, is success.
func (c *Client) CloseSession(ctx context.Context, id string) error {
	if err := segment(id); err != nil {
		return fmt.Errorf("proxyrouter: %s: %w", opClose, err)
	}
	a, err := c.do(ctx, c.transaction(opClose, "/blockchain/sessions/"+id+"/close", "{}", c.opts.CloseTimeout))
	if a.status/100 == 2 { // the status says it all: some nodes answer with no JSON, or nothing
		return nil
	}
	if errors.Is(err, errAlreadyClosed) || errors.Is(err, session.ErrSessionNotFound) {
		return nil
	}
	return err
}

// GetSession reads one session from the chain, or [session.ErrSessionNotFound].
func (c *Client) GetSession(ctx context.Context, id string) (session.ChainSession, error) {
	if err := segment(id); err != nil {
		return session.ChainSession{}, fmt.Errorf("proxyrouter: %s: %w", opGet, err)
	}
	a, err := c.do(ctx, c.read(opGet, "/blockchain/sessions/"+id))
	if err != nil {
		return session.ChainSession{}, err
	}
	s, err := decodeSession(a.body)
	if err == nil && !strings.EqualFold(s.ID, id) {
		err = errors.New("it answered with another session")
	}
	if err != nil {
		return session.ChainSession{}, c.malformed(opGet, a, err)
	}
	return s, nil
}

// The first page is small, because the newest few sessions are what is nearly
// always asked for; 255 is the most the node gives.
const firstPage, nextPage = 20, 255

// WalletSessions lists the wallet's sessions opened at or after since, the newest
// first. It reads pages until one reaches back beyond since.
func (c *Client) WalletSessions(ctx context.Context, since time.Time) ([]session.ChainSession, error) {
	address, err := c.walletAddress(ctx)
	if err != nil {
		return nil, err
	}
	since = since.Truncate(time.Second)
	var (
		found  []session.ChainSession
		seen   = make(map[string]bool)
		sorted = true // what the node promises; where it does not hold, every page is read
		last   time.Time
	)
	for offset, limit := 0, firstPage; ; offset, limit = offset+limit, nextPage {
		page, err := c.sessionsPage(ctx, address, offset, limit)
		if err != nil {
			return nil, err
		}
		news := false
		for _, s := range page {
			key := strings.ToLower(s.ID)
			if seen[key] { // a session opened meanwhile moved the others down, into this page
				continue
			}
			seen[key], news = true, true
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
		case !news:
			return nil, &NodeError{Op: opSessions, Status: 200, Message: fmt.Sprintf("the page at offset %d repeats the one before", offset)}
		}
	}
}

func (c *Client) sessionsPage(ctx context.Context, address string, offset, limit int) ([]session.ChainSession, error) {
	k := c.read(opSessions, "/blockchain/sessions/user")
	k.query = url.Values{
		"user":   {address},
		"offset": {strconv.Itoa(offset)},
		"limit":  {strconv.Itoa(limit)},
		"order":  {"desc"},
	}
	a, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	page, err := decodeSessions(a.body)
	if err != nil {
		return nil, c.malformed(opSessions, a, err)
	}
	return page, nil
}

// wallet remembers the node's address for a minute: longer, and a node restarted
// with another wallet would be asked for the old one's sessions.
type wallet struct {
	address string
	until   time.Time
}

const walletFor = time.Minute

func (c *Client) walletAddress(ctx context.Context) (string, error) {
	c.walletMu.Lock()
	known := c.wallet
	c.walletMu.Unlock()
	if known.address != "" && c.opts.Now().Before(known.until) {
		return known.address, nil
	}
	a, err := c.do(ctx, c.read(opWallet, "/wallet"))
	if err != nil {
		return "", err
	}
	address, err := decodeWallet(a.body)
	if err != nil {
		return "", c.malformed(opWallet, a, err)
	}
	c.walletMu.Lock()
	c.wallet = wallet{address: address, until: c.opts.Now().Add(walletFor)}
	c.walletMu.Unlock()
	return address, nil
}
