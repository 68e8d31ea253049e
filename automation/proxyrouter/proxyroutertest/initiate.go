package proxyroutertest

import (
	"encoding/json"
	"net/http"
	"strings"
)

// What a chat fails with after one side has lost its storage.
const (
	consumerForgot = "provider not found"
	providerForgot = "provider request failed: provider error: user not found"
)

// loseStorage makes one side forget the other, for the sessions with the
// provider, or all of them. Initiating or opening a session with a provider
// heals every session with it. The caller holds mu.
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
	_, badBid := parseID(req.BidID)
	spend, badSpend := req.Spend.Int64()
	_, tooLarge := req.Spend.Float64()
	if badBid != nil || (badSpend != nil && tooLarge != nil) || (badSpend == nil && spend < 0) || req.Spend == "" ||
		!strings.EqualFold(req.User, n.opts.Wallet) || req.Provider == "" {
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
