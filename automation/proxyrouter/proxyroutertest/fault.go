package proxyroutertest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Op names what a call asks.
type Op string

// The calls that can be made to fail. OpChat is every forwarded request, the
// embeddings and audio ones too.
const (
	OpOpen     Op = "open"
	OpClose    Op = "close"
	OpGet      Op = "get"
	OpSessions Op = "sessions"
	OpBids     Op = "bids"
	OpModels   Op = "models"
	OpWallet   Op = "wallet"
	OpHealth   Op = "health"
	OpChat     Op = "chat"
)

// Mode is the way in which a call fails.
type Mode string

// The ways. In each but Answer no whole answer arrives.
const (
	Answer Mode = ""     // answers with Status and Text or Body
	Hang   Mode = "hang" // says nothing until the caller leaves
	Drop   Mode = "drop" // closes the connection without a word
	Cut    Mode = "cut"  // does the work, and closes the connection in the middle of the answer
)

// Fault makes calls fail. Faults are tried in the order they were injected, and
// the first that fits a call is the only one.
type Fault struct {
	Op       Op     `json:"op"`
	Provider string `json:"provider,omitempty"` // OpChat: only sessions with this provider
	Model    string `json:"model,omitempty"`    // OpChat, OpOpen, OpBids: only this model

	Times       int     `json:"times,omitempty"`       // for that many calls; 0 is every one until ClearFaults
	Skip        int     `json:"skip,omitempty"`        // let that many pass before
	Probability float64 `json:"probability,omitempty"` // of a call to fail; 0 is always

	// After does the work first: a session is opened, paid and on the chain, and
	// then the answer goes wrong.
	After bool          `json:"after,omitempty"`
	Delay time.Duration `json:"delay,omitempty"` // before it fails

	Mode   Mode   `json:"mode,omitempty"`
	Status int    `json:"status,omitempty"` // 0 is 500; with neither Text nor Body, After and 200, the true answer after Delay
	Text   string `json:"text,omitempty"`   // becomes {"error":"…"}
	Body   string `json:"body,omitempty"`   // as it is
}

// What the node says behind a session that its provider ended.
const expiredText = "provider request failed: provider error: session expired"

// ProviderModelError is a provider's model that fails, as newer nodes tell it.
func ProviderModelError(status int, message string) Fault {
	body := mustJSON(map[string]any{
		"providerModelError": map[string]any{"error": map[string]any{"message": message}}, "statusCode": status,
	})
	return Fault{Op: OpChat, Status: status, Body: string(body)}
}

// OldProviderModelError is the same from an older node: 400, whatever the model said.
func OldProviderModelError(message string) Fault {
	body := mustJSON(map[string]any{"providerModelError": map[string]any{"error": map[string]any{"message": message}}})
	return Fault{Op: OpChat, Status: http.StatusBadRequest, Body: string(body)}
}

// Inject adds a fault.
func (n *Node) Inject(f Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = append(n.faults, &f)
}

// ClearFaults removes all faults.
func (n *Node) ClearFaults() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = nil
}

// next finds the fault for a call and uses it up.
func (n *Node) next(op Op, model, provider string) (Fault, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, f := range n.faults {
		switch {
		case f.Op != op,
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

func (n *Node) faulty(op Op, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := n.next(op, r.PathValue("id"), "")
		if !ok {
			next(w, r)
			return
		}
		f.run(w, r, next)
	})
}

// run fails as told. The work is done on a recorder, so that its answer can be
// thrown away or cut.
func (f Fault) run(w http.ResponseWriter, r *http.Request, work http.HandlerFunc) {
	var done recorder
	if f.After || f.Mode == Cut {
		work(&done, r)
	} else {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // only a request read to its end tells when its client leaves
	}
	sleep(r, f.Delay)
	switch f.Mode {
	case Hang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case Drop:
		panic(http.ErrAbortHandler)
	case Cut:
		done.cut(w)
	default:
		f.answer(w, &done)
	}
}

func (f Fault) answer(w http.ResponseWriter, done *recorder) {
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	switch {
	case f.Body != "":
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		w.Write([]byte(f.Body)) //nolint:errcheck // the client may have left
	case f.Text != "":
		fail(w, status, f.Text)
	case f.After && status == http.StatusOK:
		done.replay(w)
	case status == http.StatusNoContent:
		w.WriteHeader(status)
	default:
		fail(w, status, fmt.Sprintf("injected fault in %s", f.Op))
	}
}

// sleep waits, or until the caller leaves.
func sleep(r *http.Request, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *recorder) copyHeader(w http.ResponseWriter) {
	for name, values := range r.Header() {
		w.Header()[name] = values
	}
}

func (r *recorder) replay(w http.ResponseWriter) {
	r.copyHeader(w)
	w.WriteHeader(max(r.status, http.StatusOK))
	w.Write(r.body.Bytes()) //nolint:errcheck // the client may have left
}

func (r *recorder) cut(w http.ResponseWriter) {
	r.copyHeader(w)
	w.Header().Set("Content-Length", fmt.Sprint(r.body.Len()))
	w.WriteHeader(max(r.status, http.StatusOK))
	w.Write(r.body.Bytes()[:r.body.Len()/2]) //nolint:errcheck // the client may have left
	http.NewResponseController(w).Flush()    //nolint:errcheck // the connection ends here anyway
	panic(http.ErrAbortHandler)
}
