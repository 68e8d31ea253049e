package proxyroutertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// The chain's figures: an open below minDuration is refused, and a session
// lasts a second less than was asked for.
const (
	minDuration = 300 * time.Second
	shortfall   = time.Second
)

var collisionTexts = []string{
	"nonce too low", "nonce too high", "replacement transaction underpriced",
	"transaction underpriced", "already known", "invalid nonce", "incorrect nonce",
}

// paid is a session on the chain.
type paid struct {
	Session
	holder  *holder // the request it serves
	expired bool    // by Expire, ahead of its end
}

// submit passes a transaction through the wallet. It fails where another is being submitted.
func (n *Node) submit() error {
	window := n.opts.CollisionWindow
	if window <= 0 {
		return nil
	}
	n.mu.Lock()
	if n.inWindow > 0 {
		text := collisionTexts[n.counts.Collisions%len(collisionTexts)]
		n.counts.Collisions++
		n.mu.Unlock()
		return fmt.Errorf("failed to send transaction: %s: next nonce 7, tx nonce 6", text)
	}
	n.inWindow++
	n.mu.Unlock()
	pause(window)
	n.mu.Lock()
	n.inWindow--
	n.mu.Unlock()
	return nil
}

// pause waits, whoever leaves meanwhile.
func pause(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}

func (n *Node) openLatency() time.Duration {
	low, high := n.opts.OpenLatency, n.opts.OpenLatencyMax
	if high <= low {
		return low
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return low + time.Duration(n.rand.Int64N(int64(high-low)))
}

func (n *Node) serveOpen(w http.ResponseWriter, r *http.Request) {
	model := strings.ToLower(r.PathValue("id"))
	var req struct {
		SessionDuration *int64 `json:"sessionDuration"`
		DirectPayment   bool   `json:"directPayment"`
		Failover        bool   `json:"failover"`
		OmitProvider    string `json:"omitProvider"`
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &req) != nil || req.SessionDuration == nil || !hash32.MatchString(model) {
		fail(w, http.StatusBadRequest, "invalid request: malformed model id or body")
		return
	}
	n.mu.Lock()
	n.counts.OpenRequests++
	n.mu.Unlock()
	asked := time.Duration(min(*req.SessionDuration, 1<<32)) * time.Second
	if asked < minDuration {
		fail(w, http.StatusInternalServerError, "failed to open session: EVM error: SessionTooShort() []")
		return
	}
	provider, err := n.choose(model, req.OmitProvider)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	latency := n.openLatency()
	if err := n.submit(); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	pause(latency - n.opts.CollisionWindow) // a caller who leaves does not stop a transaction
	id := n.open(model, provider, min(asked, n.opts.MaxDuration))
	reply(w, http.StatusOK, map[string]any{"sessionID": id})
}

func (n *Node) choose(model, omit string) (string, error) {
	providers, known := n.providers(model)
	if !known || len(providers) == 0 {
		return "", fmt.Errorf("no bids available for model %s", model)
	}
	for _, p := range providers {
		if !p.Refuses && !strings.EqualFold(p.Address, omit) {
			return p.Address, nil
		}
	}
	return "", errors.New("no provider accepting session")
}

func (n *Node) open(model, provider string, duration time.Duration) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Opens++
	n.counts.OpensByModel[model]++
	now := n.opts.Now().UTC().Truncate(time.Second)
	s := &paid{Session: Session{
		ID:       digest("session", n.opts.Seed, n.counts.Opens),
		ModelID:  model,
		Provider: provider,
		OpenedAt: now,
		EndsAt:   now.Add(duration - shortfall).Truncate(time.Second),
	}}
	n.sessions[s.ID] = s
	n.order = append(n.order, s)
	return s.ID
}

func (n *Node) serveClose(w http.ResponseWriter, r *http.Request) {
	id := strings.ToLower(r.PathValue("id"))
	if !hash32.MatchString(id) {
		fail(w, http.StatusBadRequest, "invalid session id")
		return
	}
	n.mu.Lock()
	n.selfClose()
	s := n.sessions[id]
	closed := s != nil && !s.ClosedAt.IsZero()
	n.mu.Unlock()
	switch {
	case s == nil:
		fail(w, http.StatusInternalServerError, "session not found")
		return
	case closed:
		fail(w, http.StatusInternalServerError, "EVM error: SessionAlreadyClosed() []")
		return
	}
	if err := n.submit(); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	pause(n.opts.CloseLatency - n.opts.CollisionWindow)
	if !n.close(s) {
		fail(w, http.StatusInternalServerError, "EVM error: SessionAlreadyClosed() []")
		return
	}
	reply(w, http.StatusOK, map[string]any{"tx": digest("tx", n.opts.Seed, id)})
}

func (n *Node) close(s *paid) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.ClosedAt.IsZero() {
		return false
	}
	now := n.opts.Now().UTC()
	if now.Before(s.EndsAt) {
		n.counts.EarlyCloses++
	}
	if s.holder != nil {
		n.counts.ClosedInUse++
	}
	n.counts.Closes++
	s.ClosedAt = now.Truncate(time.Second)
	return true
}

// selfClose is the node's own minute-by-minute backstop. The caller holds mu.
func (n *Node) selfClose() {
	if !n.opts.SelfClose {
		return
	}
	minute := n.opts.Now().UTC().Truncate(time.Minute)
	for _, s := range n.order {
		if s.ClosedAt.IsZero() && !s.EndsAt.After(minute) {
			s.ClosedAt = minute
		}
	}
}
