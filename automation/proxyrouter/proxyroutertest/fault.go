package proxyroutertest

import (
	"strings"
	"time"
)

// Op is an operation of the node.
type Op string

// The operations that can fail. OpChat is every forwarded request, whatever its path.
const (
	OpOpen      Op = "open"
	OpClose     Op = "close"
	OpGet       Op = "get"
	OpSessions  Op = "sessions"
	OpBids      Op = "bids"
	OpModels    Op = "models"
	OpProviders Op = "providers"
	OpInitiate  Op = "initiate"
	OpStakes    Op = "stakes"
	OpWallet    Op = "wallet"
	OpHealth    Op = "health"
	OpChat      Op = "chat"
)

// Mode is how a call fails.
type Mode string

// The modes of any call.
const (
	ModeAnswer Mode = ""      // an answer with Status and Text or Body
	ModeHang   Mode = "hang"  // nothing until the caller leaves
	ModeDrop   Mode = "drop"  // the connection is closed without an answer
	ModeCut    Mode = "cut"   // the work is done, and the connection is closed in the middle of the answer
	ModeStall  Mode = "stall" // Status and half of Body, then nothing until the caller leaves
)

// The modes of an OpChat, meant for streams. The events that are sent are correct.
// ModeNoEnd and ModeHalfLine send half of an answer that is not streamed, then Body.
const (
	ModeNoEnd    Mode = "no_end"    // neither finish_reason nor [DONE]; Body follows as it is
	ModeHalfLine Mode = "half_line" // the stream ends within a line
	ModeSilence  Mode = "silence"   // the first event, then nothing until the caller leaves
	ModeLinger   Mode = "linger"    // the stream is complete, and stays open for Delay after [DONE]
	ModeEmpty    Mode = "empty"     // status 200 without a body
)

// The modes that are states of the whole node, whatever the Op, until ClearFaults.
const (
	// ModeOldNode is a node older than v7.6: it ignores omitProvider, and answers
	// every error of a model with 400.
	ModeOldNode Mode = "old_node"
	// ModeLoseStorage forgets the sessions with Provider at once, or all sessions
	// if Provider is empty. Their chats fail with Text; empty means "provider not
	// found". Initiating or opening a session with a provider restores them.
	ModeLoseStorage Mode = "lose_storage"
)

func (m Mode) endsStream() bool {
	switch m {
	case ModeNoEnd, ModeHalfLine, ModeSilence, ModeLinger, ModeEmpty:
		return true
	}
	return false
}

// Fault makes calls fail. If several faults match a call, only the one that was
// injected first applies.
type Fault struct {
	// Name makes this the preset of that name. Of the fields below, only Provider,
	// Model, Times, Skip and Probability are then used, and Delay unless it is 0.
	Name string `json:"name,omitempty"`

	Op       Op     `json:"op,omitempty"`       // empty: every call
	Provider string `json:"provider,omitempty"` // OpChat: only sessions with this provider
	Model    string `json:"model,omitempty"`    // OpChat, OpOpen, OpBids: only this model

	Times       int     `json:"times,omitempty"`       // this many calls fail; 0: all until ClearFaults
	Skip        int     `json:"skip,omitempty"`        // the fault spares this many calls first
	Probability float64 `json:"probability,omitempty"` // that a call fails; 0: always

	// After does the work before the fault: a session is opened, paid and on the
	// chain, and only then the call fails.
	After bool          `json:"after,omitempty"`
	Delay time.Duration `json:"delay,omitempty"` // before the failure; ModeLinger: after [DONE]

	Mode Mode `json:"mode,omitempty"`
	// Status is the status of ModeAnswer and ModeStall; 0 means 500. After with a
	// Status of 200, and with neither Text nor Body, sends the correct answer after
	// Delay.
	Status int               `json:"status,omitempty"`
	Text   string            `json:"text,omitempty"` // sent as {"error":"…"}
	Body   string            `json:"body,omitempty"` // sent as it is
	Header map[string]string `json:"header,omitempty"`

	// model is a model's own error, whose form depends on the node's version.
	model *modelError
}

// Inject adds a fault. It panics if the fault's Name is none of [Presets].
func (n *Node) Inject(f Fault) {
	f = f.fromPreset()
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.Mode == ModeLoseStorage {
		if f.Text == "" {
			f.Text = consumerForgot
		}
		n.loseStorage(f.Provider, f.Text)
		return
	}
	n.faults = append(n.faults, &f)
}

// ClearFaults removes all faults.
func (n *Node) ClearFaults() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = nil
	clear(n.forgotten)
}

// Faults returns the faults that can still make calls fail.
func (n *Node) Faults() []Fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]Fault, len(n.faults))
	for i, f := range n.faults {
		list[i] = *f
	}
	return list
}

// takeFault returns the fault that applies to a call, if any, and counts the call
// in its Skip or Times.
func (n *Node) takeFault(op Op, model, provider string) (Fault, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, f := range n.faults {
		switch {
		case f.Op != "" && f.Op != op, f.Mode == ModeOldNode,
			f.Model != "" && !strings.EqualFold(f.Model, model),
			f.Provider != "" && !strings.EqualFold(f.Provider, provider),
			f.Probability > 0 && n.rand.Float64() >= f.Probability:
			continue
		case f.Skip > 0:
			f.Skip--
			continue
		}
		if f.Times == 1 {
			n.faults = append(n.faults[:i:i], n.faults[i+1:]...)
		} else if f.Times > 1 {
			f.Times--
		}
		return *f, true
	}
	return Fault{}, false
}

// inState reports whether a fault of a whole-node mode is active.
func (n *Node) inState(m Mode) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.faults {
		if f.Mode == m {
			return true
		}
	}
	return false
}
