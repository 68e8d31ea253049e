package proxyroutertest

import (
	"maps"
	"time"
)

// Stats counts what happened on the node.
type Stats struct {
	OpenRequests   int            `json:"open_requests"`    // well-formed requests to open, with any outcome
	Opens          int            `json:"opens"`            // sessions opened and paid
	OpensByModel   map[string]int `json:"opens_by_model"`   // the same, by the model's id
	Closes         int            `json:"closes"`           // sessions closed by request
	ClosesOfClosed int            `json:"closes_of_closed"` // requests to close a closed session, which failed
	EarlyCloses    int            `json:"early_closes"`     // closes before the session's end, which lock the stake
	ClosedInUse    int            `json:"closed_in_use"`    // closes while the session served a request
	Initiations    int            `json:"initiations"`      // requests to initiate a session
	Collisions     int            `json:"collisions"`       // transactions that failed with a nonce conflict
	Chats          int            `json:"chats"`            // forwarded requests that reached a provider
	ChatsOnClosed  int            `json:"chats_on_closed"`  // chats on a session that was closed before its end
	Overlaps       int            `json:"overlaps"`         // forwarded requests that found their session busy
	Unknown        int            `json:"unknown"`          // forwarded requests on a session that was never opened
	OpenNow        int            `json:"open_now"`         // sessions that are not closed
	Sessions       []Session      `json:"sessions"`         // all sessions, in the order they were opened
}

// Session is a session on the simulated chain.
type Session struct {
	ID       string    `json:"id"`
	ModelID  string    `json:"model_id"`
	Provider string    `json:"provider"`
	OpenedAt time.Time `json:"opened_at"`
	EndsAt   time.Time `json:"ends_at"`
	ClosedAt time.Time `json:"closed_at"` // zero while open
	Chats    int       `json:"chats"`     // requests served
}

// Stats returns the counts so far.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.selfClose()
	s := n.counts
	s.OpensByModel = maps.Clone(s.OpensByModel)
	s.Sessions = make([]Session, 0, len(n.order))
	for _, p := range n.order {
		s.Sessions = append(s.Sessions, p.Session)
		if p.ClosedAt.IsZero() {
			s.OpenNow++
		}
	}
	return s
}

// Expire makes a session expire at its provider, although it stays open on the
// chain. It reports whether the session exists.
func (n *Node) Expire(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sessions[id]
	if s != nil {
		s.expired = true
	}
	return s != nil
}
