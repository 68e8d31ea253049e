package relay

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

const (
	bufferSize  = 32 << 10
	maxEvent    = 8 << 20 // bytes of one server-sent event
	maxErrorLen = 64 << 10
	drainBytes  = 64 << 20
	// How long an error's text may take to arrive.
	errorTimeout = 5 * time.Second
	// How long the last bytes of an answer wait for the session's release. A
	// client that has seen them may send its next request at once, and that
	// request should find the session free.
	releaseDelay = 250 * time.Millisecond
	// How long a write that began before the client's context ended may still
	// take.
	lastWrite = time.Second
	// Stalls are looked for this many times in IdleTimeout.
	idleChecks = 4
)

// Options of a Relay. The zero value works.
type Options struct {
	// IdleTimeout ends an answer that makes no progress: the node sends nothing,
	// or the client reads nothing. Default 2 minutes; accurate to a quarter.
	IdleTimeout time.Duration
	// DrainTimeout bounds how long the node is read after the client has left or
	// has all that it needs. Default 2 minutes. It is also bounded by 64 MiB.
	DrainTimeout time.Duration
}

// A Relay passes answers on. It is safe for concurrent use.
type Relay struct {
	opts    Options
	buffers sync.Pool // of *[]byte of bufferSize

	mu      sync.Mutex
	noDrain bool // StopDraining or Close was called
	closed  bool
	active  map[*task]struct{}
	idle    sync.Cond // active is empty
}

// task is a goroutine that reads a node.
type task struct {
	cancel     context.CancelCauseFunc
	background bool // no client waits for it
}

// New returns a Relay. It starts nothing.
func New(o Options) *Relay {
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 2*time.Minute)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, 2*time.Minute)
	r := &Relay{opts: o, active: map[*task]struct{}{}}
	r.idle.L = &r.mu
	r.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	return r
}

// ErrClosed is why an answer ends when its Relay is closed.
var ErrClosed = errors.New("relay: closed")

// StopDraining ends all answers that no client waits for, and those of which
// that will be true. Answers on their way to a client continue.
func (r *Relay) StopDraining() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noDrain = true
	for t := range r.active {
		if t.background {
			t.cancel(ErrClosed)
		}
	}
}

// leave notes that no client waits for t.
func (r *Relay) leave(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.background = true
	if r.noDrain {
		t.cancel(ErrClosed)
	}
}

// Close ends all answers that are still being read and waits until each has
// been released. Answers that come later are refused.
func (r *Relay) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noDrain, r.closed = true, true
	for t := range r.active {
		t.cancel(ErrClosed)
	}
	for len(r.active) > 0 {
		r.idle.Wait()
	}
}

// Active returns how many answers are being read, those that are only drained
// included.
func (r *Relay) Active() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.active)
}

// start runs work in a goroutine that Close ends by cancel and joins. It
// returns nil after Close.
func (r *Relay) start(cancel context.CancelCauseFunc, work func()) *task {
	t := &task{cancel: cancel}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.active[t] = struct{}{}
	go func() {
		defer r.end(t)
		work()
	}()
	return t
}

func (r *Relay) end(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.active, t)
	if len(r.active) == 0 {
		r.idle.Broadcast()
	}
}

// An Answer is a node's answer to one request.
type Answer struct {
	// Response has a status of 2xx and an unread body, which Copy closes.
	Response *http.Response
	// Cancel ends the node's request: it belongs to the context that the request
	// was sent with, which must not end with the client's.
	Cancel context.CancelCauseFunc
	// Release is called once unless the Result is Held: when the node has been
	// read to its end or has closed the connection (drained), or is given up while
	// it may still be at work.
	// That may be after Copy has returned.
	Release func(drained bool)
	// PrepareRelease, unless nil, is called before the last bytes go out of an
	// answer after which Release follows at once, as far as the node is concerned.
	PrepareRelease func()
	// Describe returns a failure as JSON, {"error":{…}}, for a client that has
	// part of a stream already. It may make the failure's cause and code more
	// exact, which the Result then has. Nil: a fixed text.
	Describe func(*Failure) []byte
}

// A Failure is why a client did not get a whole answer.
type Failure struct {
	Cause outcome.Cause
	Code  outcome.Code
	// Body is the error that the node sent in place of an answer or after a part
	// of it, with a 2xx status: at most 64 KiB, unredacted. Nil where there is none.
	Body []byte
	Err  error // for the log
}

// A Result is what became of an answer.
type Result struct {
	Failure *Failure // nil: the client has the whole answer
	Begun   bool     // the status and perhaps part of the body have been sent
	// Abort is true when the client has part of an answer that would look whole
	// if the handler returned: it must panic with http.ErrAbortHandler.
	Abort bool
	// Held is true when the answer failed before the client got any of it:
	// Release is not called, so that the caller can use the session for another
	// attempt. Drained then reports whether the node has been read to its end.
	Held, Drained bool
}

// Copy passes the answer on to w. It returns when the client has all that it
// will get, which may be before the node has been read to its end. Of ctx, the
// client's, it tells apart a client that leaves (outcome.ClientLeft) from a
// deadline or another cause (outcome.Host).
//
// A status that is not 2xx is refused and its body closed.
func (r *Relay) Copy(ctx context.Context, w http.ResponseWriter, a Answer) Result {
	t := newTransfer(ctx, r, w, a)
	status := a.Response.StatusCode
	if status < http.StatusOK || status >= http.StatusMultipleChoices {
		return t.refuse(&Failure{Cause: outcome.Provider, Code: outcome.CodeProviderError, Err: errors.New("relay: the status " + a.Response.Status + " is no answer")})
	}
	task := r.start(a.Cancel, t.read)
	if task == nil {
		return t.refuse(&Failure{Cause: outcome.Host, Code: outcome.CodeSessionUnavailable, Err: ErrClosed})
	}
	defer r.leave(task)
	return t.wait()
}

// ReadError reads and closes the body of an answer that is not 2xx: at most
// 64 KiB, for at most 5 seconds. It reports whether that was all of it.
func (r *Relay) ReadError(resp *http.Response, cancel context.CancelCauseFunc) (body []byte, drained bool) {
	timer := time.AfterFunc(errorTimeout, func() { cancel(errSlowError) })
	defer timer.Stop()
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, false // the body is a connection, which has no end
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorLen+1))
	if len(body) > maxErrorLen {
		return body[:maxErrorLen], false
	}
	return body, err == nil || ClosedByNode(err)
}
