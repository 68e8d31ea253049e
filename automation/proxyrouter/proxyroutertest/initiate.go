package proxyroutertest

import (
	"encoding/json"
	"net/http"
	"strings"
)

// The errors of a chat after the node or the provider has lost its storage.
const (
	consumerForgot = "provider not found"
	providerForgot = "provider request failed: provider error: user not found"
)

// loseStorage makes chats on the sessions with a provider fail with text; an empty
// provider means all sessions. Initiating or opening a session with a provider
// restores all its sessions. The caller holds mu.
func (n *Node) loseStorage(provider, text string) {
	for _, s := range n.order {
		if provider == "" || strings.EqualFold(provider, s.Provider) {
			n.forgotten[strings.ToLower(s.Provider)] = text
		}
	}
}

// serveInitiate introduces consumer and provider to each other, without a
// transaction and without a payment.
func (n *Node) serveInitiate(w http.ResponseWriter, r *http.Request) {
	var req struct {
		User        string      `json:"user"`
		Provider    string      `json:"provider"`
		Spend       json.Number `json:"spend"`
		ProviderURL string      `json:"providerUrl"`
		BidID       string      `json:"bidId"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	_, bidErr := parseID(req.BidID)
	if bidErr != nil || !isAmount(req.Spend) || !strings.EqualFold(req.User, n.opts.Wallet) || req.Provider == "" {
		writeError(w, http.StatusBadRequest, "Key: 'InitiateSessionReq' Error: Field validation failed")
		return
	}
	if req.ProviderURL != endpoint(req.Provider) {
		writeError(w, http.StatusInternalServerError, "provider request failed: failed to connect to provider")
		return
	}
	n.mu.Lock()
	n.counts.Initiations++
	delete(n.forgotten, strings.ToLower(req.Provider))
	n.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"message": digest("pubkey", req.Provider), "approval": digest("approval"), "user": req.User})
}

// isAmount reports whether a number is an amount of tokens, which may be too large
// for an int64.
func isAmount(number json.Number) bool {
	if n, err := number.Int64(); err == nil {
		return n >= 0
	}
	_, err := number.Float64()
	return err == nil
}
