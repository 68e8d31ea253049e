package proxyroutertest

import (
	"strings"
	"time"
)

// Op is what a call asks for.
type Op string

// The calls that can fail. OpChat is every forwarded request, whatever its path.
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
	ModeCut    Mode = "cut"   // the work is done, and the connection closed in the middle of the answer
	ModeStall  Mode = "stall" // Status and half of Body, then nothing until the caller leaves
)

// The modes of an OpChat that is a stream. Everything up to its last event is
// right, and the connection ends cleanly.
const (
	ModeNoEnd    Mode = "no_end"    // neither finish_reason nor [DONE]; then Body, as it is
	ModeHalfLine Mode = "half_line" // it ends within a line
	ModeSilence  Mode = "silence"   // it sends its first event, then nothing until the caller leaves
	ModeLinger   Mode = "linger"    // it is complete, and stays open for Delay after [DONE]
	ModeEmpty    Mode = "empty"     // status 200 without a body, also if it is no stream
)

// The modes that are states of the whole node, whatever the Op, until ClearFaults.
const (
	// ModeOldNode is a node before #797: it ignores omitProvider, and answers
	// every error of a model with 400.
	ModeOldNode Mode = "old_node"
	// ModeLoseStorage forgets, at once, the sessions with Provider, or with all
	// of them; initiating or opening one with that provider heals it. Text is
	// what their chats fail with; empty means "provider not found".
	ModeLoseStorage Mode = "lose_storage"
)

func (m Mode) endsStream() bool {
	switch m {
	case ModeNoEnd, ModeHalfLine, ModeSilence, ModeLinger, ModeEmpty:
		return true
	}
	return false
}

// Fault makes calls fail. Faults are tried in the order they were injected, and
// the first that fits a call is the only one.
type Fault struct {
	// Name takes everything that is zero here from the preset of that name.
	Name string `json:"name,omitempty"`

	Op       Op     `json:"op,omitempty"`       // empty: every call
	Provider string `json:"provider,omitempty"` // OpChat: only sessions with this provider
	Model    string `json:"model,omitempty"`    // OpChat, OpOpen, OpBids: only this model

	Times       int     `json:"times,omitempty"`       // this many calls; 0 is every one until ClearFaults
	Skip        int     `json:"skip,omitempty"`        // after this many calls
	Probability float64 `json:"probability,omitempty"` // of a call to fail; 0 is always

	// After does the work first: a session is opened, paid and on the chain, and
	// only then the answer goes wrong.
	After bool          `json:"after,omitempty"`
	Delay time.Duration `json:"delay,omitempty"` // before it fails; ModeLinger: after [DONE]

	Mode   Mode              `json:"mode,omitempty"`
	Status int               `json:"status,omitempty"` // 0 is 500; with neither Text nor Body, After and 200, the true answer after Delay
	Text   string            `json:"text,omitempty"`   // becomes {"error":"…"}
	Body   string            `json:"body,omitempty"`   // as it is
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

// Faults returns the faults that are left.
func (n *Node) Faults() []Fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]Fault, len(n.faults))
	for i, f := range n.faults {
		list[i] = *f
	}
	return list
}

// takeFault finds the fault for a call and uses it up.
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
