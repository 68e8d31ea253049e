package proxyroutertest

import (
	"maps"
	"time"
)

// Stats is what happened on the node, for a test to hold against its own books.
type Stats struct {
	OpenRequests int            `json:"open_requests"` // well-formed ones, whatever became of them
	Opens        int            `json:"opens"`         // sessions opened and paid
	OpensByModel map[string]int `json:"opens_by_model"`
	Closes       int            `json:"closes"`        // asked for and done
	EarlyCloses  int            `json:"early_closes"`  // before the end: the stake is locked
	ClosedInUse  int            `json:"closed_in_use"` // while a request was served
	Collisions   int            `json:"collisions"`    // transactions that met another
	Chats        int            `json:"chats"`         // forwarded requests that reached a provider
	Overlaps     int            `json:"overlaps"`      // those that came while their session served another
	Unknown      int            `json:"unknown"`       // those on a session that was never opened
	OpenNow      int            `json:"open_now"`      // sessions not closed
	Sessions     []Session      `json:"sessions"`      // in the order they were opened
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

// Expire makes a session's provider say that it has expired, though the chain
// says otherwise. It tells whether the session exists.
func (n *Node) Expire(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sessions[id]
	if s != nil {
		s.expired = true
	}
	return s != nil
}
