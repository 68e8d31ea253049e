package relay

import (
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
	// The time-outs of a Relay that New returns.
	idleTimeout  = 2 * time.Minute
	drainTimeout = 2 * time.Minute
	// How many bytes of an answer are drained at most.
	drainBytes = 64 << 20
	// How long an error's text may take to arrive.
	errorTimeout = 5 * time.Second
	// How long the last bytes of an answer wait for the session's release. A
	// client that has seen them may send its next request at once, and that
	// request should find the session free.
	releaseDelay = 250 * time.Millisecond
	// How long a write that began before the client's context ended may still
	// take.
	lastWrite = time.Second
	// How often the progress is checked within idleTimeout.
	idleChecks = 4
)

// A Relay passes answers on. It is safe for concurrent use.
//
// It ends an answer that makes no progress for 2 minutes, because the node sends
// nothing or the client reads nothing. It drains an answer whose client has left,
// or has everything that it needs, for at most 2 minutes and 64 MiB.
type Relay struct {
	idleTimeout  time.Duration // accurate to a quarter
	drainTimeout time.Duration
	buffers      sync.Pool // of *[]byte of bufferSize

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
func New() *Relay {
	r := &Relay{idleTimeout: idleTimeout, drainTimeout: drainTimeout, active: map[*task]struct{}{}}
	r.idle.L = &r.mu
	r.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	return r
}

// ErrClosed is why an answer ends when its Relay is closed.
var ErrClosed = errors.New("relay: closed")

// StopDraining ends all answers that no client waits for, now and from now on.
// Answers that a client still waits for continue.
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

// moveToBackground records that no client waits for t any more.
func (r *Relay) moveToBackground(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.background = true
	if r.noDrain {
		t.cancel(ErrClosed)
	}
}

// Close ends all answers that are still being read and waits until their
// sessions have been released. Later calls of Send and Copy fail with ErrClosed.
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

// Active returns how many answers are being waited for, read or drained.
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
	// Cancel cancels the context that the node's request was sent with, which
	// must not end with the client's.
	Cancel context.CancelCauseFunc
	// Release is called exactly once unless the Result is Held, perhaps after Copy
	// has returned. The node is done with the request if drained is true: it has
	// been read to its end or has closed the connection. Otherwise it may still be
	// at work.
	Release func(drained bool)
	// PrepareRelease, unless nil, announces Release before the last bytes are
	// written to the client. It is not called for an answer that is Held, or that
	// failed while the node may still be at work.
	PrepareRelease func()
	// Describe returns a failure as JSON, {"error":{…}}, for a client that already
	// has part of a stream. It may change the failure's Cause and Code to more
	// exact ones; the Result then has those. If it is nil, the client gets a fixed
	// text.
	Describe func(*Failure) []byte
}

// A Failure is why a client did not get a complete answer.
type Failure struct {
	Cause outcome.Cause
	Code  outcome.Code
	// Body is the error that the node sent in place of an answer or after a part
	// of it, with a 2xx status: at most 64 KiB, unredacted. Nil if there is none.
	Body []byte
	Err  error // for the log
}

// A Result says how an answer ended.
type Result struct {
	Failure *Failure // nil if the client has the complete answer
	Begun   bool     // the status and perhaps part of the body have been sent
	// Abort is true when the client has part of an answer that would look complete
	// if the handler returned: the handler must panic with http.ErrAbortHandler.
	Abort bool
	// Held is true when the answer failed before the client got any of it:
	// Release is not called, so that the caller can use the session for another
	// attempt. Drained then reports whether the node has been read to its end.
	Held, Drained bool
}

// Copy passes the answer on to w. It returns when the client has everything
// that it will get, which may be before the node has been read to its end. If
// the client's ctx ends first, the failure's cause is outcome.Host for a deadline
// or any other cause of the host's, and outcome.ClientLeft otherwise.
//
// An answer whose status is not 2xx fails, and its body is closed.
func (r *Relay) Copy(ctx context.Context, w http.ResponseWriter, a Answer) Result {
	t := newTransfer(ctx, r, w, a)
	status := a.Response.StatusCode
	if status < http.StatusOK || status >= http.StatusMultipleChoices {
		return t.refuse(&Failure{Cause: outcome.Provider, Code: outcome.CodeProviderError, Err: errors.New("relay: the node answered with the status " + a.Response.Status)})
	}
	task := r.start(a.Cancel, t.read)
	if task == nil {
		return t.refuse(&Failure{Cause: outcome.Host, Code: outcome.CodeSessionUnavailable, Err: ErrClosed})
	}
	defer r.moveToBackground(task)
	return t.wait()
}

// ReadError reads and closes the body of an answer that is not 2xx: at most
// 64 KiB, for at most 5 seconds. See [Answer].Release for drained.
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
