package proxyroutertest

import (
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// stakeLock is how long the unused stake of a session closed before its end stays on hold.
const stakeLock = 24 * time.Hour

// stake is the stake of each session.
var stake, _ = new(big.Int).SetString(string(wei), 10)

func (n *Node) serveClose(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.PathValue("id"))
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	n.mu.Lock()
	n.selfClose()
	s := n.sessions[id]
	closed := s != nil && !s.ClosedAt.IsZero()
	n.mu.Unlock()
	switch {
	case s == nil:
		writeError(w, http.StatusInternalServerError, "session not found")
		return
	case closed:
		n.failClose(w)
		return
	}
	if err := n.submit(); err != nil {
		writeError(w, http.StatusInternalServerError, err.Error())
		return
	}
	wait(n.opts.CloseLatency - n.opts.CollisionWindow)
	if !n.close(s) {
		n.failClose(w)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"tx": digest("tx", n.opts.Seed, id)})
}

// failClose answers the close of a closed session with an error. The real node
// tries it three times, and the text depends on its RPC endpoint.
func (n *Node) failClose(w http.ResponseWriter) {
	n.mu.Lock()
	n.counts.ClosesOfClosed++
	text := []string{
		"EVM error: SessionAlreadyClosed() []", "execution reverted", "gas required exceeds allowance (0)",
	}[n.counts.ClosesOfClosed%3]
	n.mu.Unlock()
	wait(3 * n.opts.CloseLatency)
	writeError(w, http.StatusInternalServerError, fmt.Sprintf("failed to send transaction: close session failed: %s", text))
}

// close closes a session on the chain, or returns false if it is closed.
func (n *Node) close(s *session) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.ClosedAt.IsZero() {
		return false
	}
	now := n.opts.Now().UTC()
	if now.Before(s.EndsAt) {
		n.counts.EarlyCloses++
	}
	if len(s.busy) > 0 {
		n.counts.ClosedInUse++
	}
	n.counts.Closes++
	s.ClosedAt = now.Truncate(time.Second)
	return true
}

// selfClose does what the node's own job does at each full minute: it closes the
// sessions that are past their end. The caller holds mu.
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

// serveStakes reports the stakes of early closes: the sum that is still locked and
// the sum that can be withdrawn.
func (n *Node) serveStakes(w http.ResponseWriter, r *http.Request) {
	hold, available := n.stakes(false)
	writeJSON(w, http.StatusOK, map[string]any{"hold": hold, "available": available})
}

func (n *Node) serveWithdraw(w http.ResponseWriter, r *http.Request) {
	if _, available := n.stakes(true); available.Sign() == 0 {
		writeError(w, http.StatusInternalServerError, "EVM error: SessionNoStakeToWithdraw() []")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"tx": digest("withdraw", n.opts.Seed)})
}

// stakes returns the sums of the stakes of early closes. With withdraw, it also
// withdraws those that are available.
func (n *Node) stakes(withdraw bool) (hold, available *big.Int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	hold, available = new(big.Int), new(big.Int)
	for _, s := range n.order {
		switch {
		case s.ClosedAt.IsZero(), !s.ClosedAt.Before(s.EndsAt), s.withdrawn:
		case n.opts.Now().Before(s.ClosedAt.Add(stakeLock)):
			hold.Add(hold, stake)
		default:
			available.Add(available, stake)
			s.withdrawn = withdraw
		}
	}
	return hold, available
}
