package proxyroutertest

import (
	"fmt"
	"net/http"
	"strings"
)

// Model is a model of the registry.
type Model struct {
	ID        string // 0x and 64 hex digits
	Name      string
	Type      string // LLM, EMBEDDING, TTS, STT, UNKNOWN; empty means LLM
	Providers []Provider
}

// Provider is a provider's bid for a model. The first is rated best.
type Provider struct {
	Address string
	Refuses bool // accepts no session
}

// providers returns a model's bids, and whether the model is known.
func (n *Node) providers(model string) ([]Provider, bool) {
	if len(n.opts.Models) == 0 {
		return []Provider{{Address: ProviderAddress(0)}, {Address: ProviderAddress(1)}}, true
	}
	for _, m := range n.opts.Models {
		if strings.EqualFold(m.ID, model) {
			return m.Providers, true
		}
	}
	return nil, false
}

func bidID(model, provider string) string { return digest("bid", model, provider) }

// zeroID is the outer ID of a rated bid: the node sets only the inner Id.
var zeroID = "0x" + strings.Repeat("0", 64)

func (n *Node) serveBids(w http.ResponseWriter, r *http.Request) {
	model, err := parseID(r.PathValue("id"))
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	providers, _ := n.providers(model)
	bids := []map[string]any{}
	for i, p := range providers {
		bids = append(bids, map[string]any{
			"ID": zeroID,
			"Bid": map[string]any{
				"Id": bidID(model, p.Address), "Provider": p.Address, "ModelAgentId": model, "PricePerSecond": string(wei),
				"Nonce": "0", "CreatedAt": "1750000000", "DeletedAt": "0",
			},
			"Score": 1 / float64(i+1),
		})
	}
	writeJSON(w, http.StatusOK, map[string]any{"bids": bids})
}

func (n *Node) serveModels(w http.ResponseWriter, _ *http.Request) {
	list := []map[string]any{}
	for _, m := range n.opts.Models {
		kind := m.Type
		if kind == "" {
			kind = "LLM"
		}
		list = append(list, map[string]any{
			"Id": strings.ToLower(m.ID), "IpfsCID": digest("ipfs", m.ID), "Fee": wei, "Stake": wei,
			"Owner": n.opts.Wallet, "Name": m.Name, "Tags": []string{}, "CreatedAt": 1750000000,
			"IsDeleted": false, "ModelType": kind,
		})
	}
	writeJSON(w, http.StatusOK, map[string]any{"models": list})
}

// endpoint returns a provider's network address, derived from its address on the chain.
func endpoint(provider string) string {
	return fmt.Sprintf("provider-%.8s.invalid:3333", strings.TrimPrefix(strings.ToLower(provider), "0x"))
}

func (n *Node) serveProviders(w http.ResponseWriter, _ *http.Request) {
	list := []map[string]any{}
	listed := make(map[string]bool)
	add := func(providers []Provider) {
		for _, p := range providers {
			if !listed[strings.ToLower(p.Address)] {
				listed[strings.ToLower(p.Address)] = true
				list = append(list, map[string]any{
					"Address": p.Address, "Endpoint": endpoint(p.Address), "Stake": wei, "CreatedAt": 1750000000, "IsDeleted": false,
				})
			}
		}
	}
	for _, m := range n.opts.Models {
		add(m.Providers)
	}
	if len(n.opts.Models) == 0 {
		all, _ := n.providers("")
		add(all)
	}
	writeJSON(w, http.StatusOK, map[string]any{"providers": list})
}
