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

// The chain refuses a session shorter than minDuration. A session ends shortfall
// earlier than requested.
const (
	minDuration = 300 * time.Second
	shortfall   = time.Second
)

// nonceErrors are the errors of a transaction that collides with another of the wallet.
var nonceErrors = []string{
	"nonce too low", "nonce too high", "replacement transaction underpriced",
	"transaction underpriced", "already known", "invalid nonce", "incorrect nonce",
}

// session is a session on the chain and at its provider.
type session struct {
	Session
	busy      chan struct{} // holds a value while a request is served
	expired   bool          // Expire ended it at the provider
	withdrawn bool          // the stake of an early close was withdrawn
}

func (n *Node) serveOpen(w http.ResponseWriter, r *http.Request) {
	model, idErr := parseID(r.PathValue("id"))
	var req struct {
		SessionDuration *int64 `json:"sessionDuration"`
		DirectPayment   bool   `json:"directPayment"`
		Failover        bool   `json:"failover"`
		OmitProvider    string `json:"omitProvider"`
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	if err := errors.Join(idErr, err); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.SessionDuration == nil {
		panic(http.ErrAbortHandler) // the real node panics too
	}
	n.mu.Lock()
	n.counts.OpenRequests++
	n.mu.Unlock()
	requested := time.Duration(min(*req.SessionDuration, 1<<32)) * time.Second
	if requested < minDuration {
		writeError(w, http.StatusInternalServerError, "failed to open session: EVM error: SessionTooShort() []")
		return
	}
	if n.isOld() {
		req.OmitProvider = ""
	}
	provider, err := n.chooseProvider(model, req.OmitProvider)
	if err != nil {
		writeError(w, http.StatusInternalServerError, err.Error())
		return
	}
	latency := n.openLatency()
	if err := n.submit(); err != nil {
		writeError(w, http.StatusInternalServerError, err.Error())
		return
	}
	wait(latency - n.opts.CollisionWindow) // a caller that leaves does not stop a transaction
	id := n.open(model, provider, min(requested, n.opts.MaxDuration))
	writeJSON(w, http.StatusOK, map[string]any{"sessionID": id})
}

// chooseProvider pings the model's providers in the order of their rating and
// returns the first that accepts.
func (n *Node) chooseProvider(model, omit string) (string, error) {
	providers, known := n.providers(model)
	if !known || len(providers) == 0 {
		return "", errors.New("no bids available")
	}
	type failure struct {
		Provider string `json:"provider"`
		Reason   string `json:"reason"`
	}
	var failures []failure
	for _, p := range providers {
		switch {
		case strings.EqualFold(p.Address, omit):
			failures = append(failures, failure{p.Address, "skipped: omitted provider"})
		case p.Refuses:
			failures = append(failures, failure{p.Address, "failed to initiate session: response error: error: model unhealthy, result: <nil>"})
		default:
			return p.Address, nil
		}
	}
	return "", fmt.Errorf("no provider accepting session: %s", mustJSON(failures))
}

// submit sends a transaction of the wallet. It fails while another is being submitted.
func (n *Node) submit() error {
	window := n.opts.CollisionWindow
	if window <= 0 {
		return nil
	}
	n.mu.Lock()
	if n.submitting > 0 {
		text := nonceErrors[n.counts.Collisions%len(nonceErrors)]
		n.counts.Collisions++
		n.mu.Unlock()
		return fmt.Errorf("failed to send transaction: %s: next nonce 7, tx nonce 6", text)
	}
	n.submitting++
	n.mu.Unlock()
	wait(window)
	n.mu.Lock()
	n.submitting--
	n.mu.Unlock()
	return nil
}

// wait waits for d, even if the caller leaves or the server is closed.
func wait(d time.Duration) {
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

// open puts a new session on the chain and returns its id.
func (n *Node) open(model, provider string, duration time.Duration) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Opens++
	n.counts.OpensByModel[model]++
	delete(n.forgotten, strings.ToLower(provider)) // an open initiates the session with its provider
	now := n.opts.Now().UTC().Truncate(time.Second)
	s := &session{busy: make(chan struct{}, 1), Session: Session{
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
