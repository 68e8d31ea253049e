package proxyroutertest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// digest derives 32 bytes from its parts, written as the chain writes ids.
func digest(parts ...any) string {
	sum := sha256.Sum256(fmt.Append(nil, parts...))
	return "0x" + hex.EncodeToString(sum[:])
}

func address(name string) string { return digest(name)[:42] }

// ModelID returns a well-formed id, the same for the same name.
func ModelID(name string) string { return digest("model", name) }

// ProviderAddress returns the address of the i-th provider of a node without
// Models, well-formed for any i.
func ProviderAddress(i int) string { return address("provider" + strconv.Itoa(i)) }

// wei is past 2^53, as amounts are.
const wei = json.Number("123456789012345678901234")

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (n *Node) wire(s *paid) map[string]any {
	return map[string]any{
		"Id": s.ID, "User": n.opts.Wallet, "Provider": s.Provider, "ModelAgentId": s.ModelID,
		"BidID": digest("bid", s.ModelID, s.Provider), "Stake": wei, "PricePerSecond": wei,
		"CloseoutReceipt": "", "CloseoutType": 0, "ProviderWithdrawnAmount": 0,
		"OpenedAt": unix(s.OpenedAt), "EndsAt": unix(s.EndsAt), "ClosedAt": unix(s.ClosedAt),
	}
}

func (n *Node) serveSession(w http.ResponseWriter, r *http.Request) {
	id := strings.ToLower(r.PathValue("id"))
	if !hash32.MatchString(id) {
		fail(w, http.StatusBadRequest, "invalid session id")
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.selfClose()
	s := n.sessions[id]
	if s == nil {
		fail(w, http.StatusInternalServerError, "session not found")
		return
	}
	reply(w, http.StatusOK, map[string]any{"session": n.wire(s)})
}

func (n *Node) serveSessions(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	offset, err1 := number(q.Get("offset"), 0)
	limit, err2 := number(q.Get("limit"), 10)
	order := q.Get("order")
	if err1 != nil || err2 != nil || limit > 255 || q.Get("user") == "" || (order != "" && order != "asc" && order != "desc") {
		fail(w, http.StatusBadRequest, "invalid query: user, offset, limit (at most 255) or order")
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.selfClose()
	list := []map[string]any{}
	if strings.EqualFold(q.Get("user"), n.opts.Wallet) {
		all := slices.Clone(n.order)
		if order == "desc" {
			slices.Reverse(all)
		}
		from := min(offset, len(all))
		for _, s := range all[from:min(from+limit, len(all))] {
			list = append(list, n.wire(s))
		}
	}
	reply(w, http.StatusOK, map[string]any{"sessions": list})
}

// number parses a count, or gives the default for an empty one.
func number(text string, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	v, err := strconv.ParseUint(text, 10, 31)
	return int(v), err
}

func (n *Node) serveBids(w http.ResponseWriter, r *http.Request) {
	model := strings.ToLower(r.PathValue("id"))
	if !hash32.MatchString(model) {
		fail(w, http.StatusBadRequest, "invalid model id")
		return
	}
	providers, _ := n.providers(model)
	bids := []map[string]any{}
	for i, p := range providers {
		id := digest("bid", model, p.Address)
		bids = append(bids, map[string]any{
			"ID": id,
			"Bid": map[string]any{
				"Id": id, "Provider": p.Address, "ModelAgentId": model, "PricePerSecond": string(wei),
				"Nonce": "0", "CreatedAt": "1750000000", "DeletedAt": "0",
			},
			"Score": 1 / float64(i+1),
		})
	}
	reply(w, http.StatusOK, map[string]any{"bids": bids})
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
	reply(w, http.StatusOK, map[string]any{"models": list})
}
