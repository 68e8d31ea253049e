package proxyroutertest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// wei is an amount beyond 2^53, as real amounts are, so that a client that decodes
// it as a float64 loses digits.
const wei = json.Number("123456789012345678901234")

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (n *Node) sessionJSON(s *session) map[string]any {
	return map[string]any{
		"Id": s.ID, "User": n.opts.Wallet, "Provider": s.Provider, "ModelAgentId": s.ModelID,
		"BidID": bidID(s.ModelID, s.Provider), "Stake": wei, "PricePerSecond": wei,
		"CloseoutReceipt": "", "CloseoutType": 0, "ProviderWithdrawnAmount": 0,
		"OpenedAt": unix(s.OpenedAt), "EndsAt": unix(s.EndsAt), "ClosedAt": unix(s.ClosedAt),
	}
}

func (n *Node) serveSession(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.PathValue("id"))
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.selfClose()
	s := n.sessions[id]
	if s == nil {
		writeError(w, http.StatusInternalServerError, "session not found")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"session": n.sessionJSON(s)})
}

// serveSessions lists the wallet's sessions, the newest first. Like the node, it
// lists the oldest first only for an upper-case ASC, and lists nothing for a user
// other than the wallet.
func (n *Node) serveSessions(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	offset, err1 := parseCount(q.Get("offset"), 0)
	limit, err2 := parseCount(q.Get("limit"), 10)
	if err1 != nil || err2 != nil || limit > 255 {
		writeError(w, http.StatusBadRequest, "invalid offset or limit (at most 255)")
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.selfClose()
	list := []map[string]any{}
	if strings.EqualFold(q.Get("user"), n.opts.Wallet) {
		all := slices.Clone(n.order)
		if q.Get("order") != "ASC" {
			slices.Reverse(all)
		}
		from := min(offset, len(all))
		for _, s := range all[from:min(from+limit, len(all))] {
			list = append(list, n.sessionJSON(s))
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"sessions": list})
}

// parseCount parses a count; an empty text is the default.
func parseCount(text string, defaultCount int) (int, error) {
	if text == "" {
		return defaultCount, nil
	}
	v, err := strconv.ParseUint(text, 10, 31)
	return int(v), err
}
