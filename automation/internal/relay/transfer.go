package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// Why an answer failed.
var (
	errEmpty        = errors.New("relay: the answer is empty")
	errUnfinished   = errors.New("relay: the stream ended without [DONE] or a finish_reason")
	errHalfEvent    = errors.New("relay: the stream ended within an event")
	errErrorEvent   = errors.New("relay: the node sent an error in place of an answer")
	errInvalid      = errors.New("relay: the answer is not valid JSON")
	errTruncated    = errors.New("relay: the answer is shorter than its Content-Length")
	errIdle         = errors.New("relay: the node sent nothing for too long")
	errSlowClient   = errors.New("relay: the client read nothing for too long")
	errSlowError    = errors.New("relay: the error's text took too long")
	errDrainTimeout = errors.New("relay: the node's answer could not be drained in time")
)

// transfer is one answer that is being passed on by two goroutines. The first
// runs read: it reads the node, writes all but the end of the answer to the client,
// and then drains the node. The second is Copy's and runs wait: it watches read,
// detaches the client when it must not wait any longer, and writes the end.
type transfer struct {
	Answer
	relay  *Relay
	ctx    context.Context //nolint:containedctx // the client's, for the time of Copy
	w      http.ResponseWriter
	rc     *http.ResponseController
	stream bool // of server-sent events

	// writer is a mutex that can be waited for with a time-out: it holds one value
	// while locked. It guards the fields below.
	writer   chan struct{}
	detached bool  // read must not write to the client any more
	begun    bool  // the header is written
	writeErr error // why writing to the client failed
	held     bool  // the Result is Held: Release is not called

	progress atomic.Int64 // counts reads and writes
	finished atomic.Bool  // the stream is complete even if it ends without [DONE]
	writing  atomic.Bool
	slow     atomic.Bool // a write was interrupted because the client does not read

	// Written by read before it closes forwarded.
	forwarded chan struct{}
	buf       *[]byte // a pooled buffer
	tail      []byte  // the end of the answer, not written yet; may be part of buf
	failure   *Failure
	panicked  any  // the value of a panic in read, for wait to panic with
	drained   bool // the node has been read to its end, or has closed the connection

	drainOnce  sync.Once // starts drainTimer
	drainTimer *time.Timer
	released   chan struct{} // closed after Release
}

func newTransfer(ctx context.Context, r *Relay, w http.ResponseWriter, a Answer) *transfer {
	t := &transfer{Answer: a, relay: r, ctx: ctx, w: w, rc: http.NewResponseController(w),
		writer: make(chan struct{}, 1), forwarded: make(chan struct{}), released: make(chan struct{})}
	t.drainTimer = time.AfterFunc(r.drainTimeout, func() { t.Cancel(errDrainTimeout) })
	t.drainTimer.Stop()
	mediaType, _, _ := mime.ParseMediaType(a.Response.Header.Get("Content-Type"))
	t.stream = mediaType == "text/event-stream" && !t.isEncoded()
	return t
}

// isEncoded reports whether the body has a Content-Encoding, so that it cannot
// be parsed.
func (t *transfer) isEncoded() bool {
	encoding := t.Response.Header.Get("Content-Encoding")
	return encoding != "" && encoding != "identity"
}

// refuse ends an answer that is not read at all.
func (t *transfer) refuse(f *Failure) Result {
	t.Cancel(f.Err)
	_ = t.Response.Body.Close()
	return Result{Failure: f, Held: true}
}

// decideHeld sets and returns held: whether the answer failed before the client
// got any of it, so that Copy's caller keeps the session.
func (t *transfer) decideHeld() bool {
	t.writer <- struct{}{}
	t.held = t.failure != nil && !t.begun && !t.detached
	<-t.writer
	return t.held
}

// boundDrain cancels the request to the node drainTimeout after the first call.
func (t *transfer) boundDrain() {
	t.drainOnce.Do(func() { t.drainTimer.Reset(t.relay.drainTimeout) })
	select {
	case <-t.released: // drained already
		t.drainTimer.Stop()
	default:
	}
}

// wait watches read until nothing more is written to the client.
func (t *transfer) wait() Result {
	watch := time.NewTicker(max(t.relay.idleTimeout/idleChecks, 1))
	defer watch.Stop()
	last, stalls := int64(-1), 0
	for {
		select {
		case <-t.forwarded:
			return t.complete()
		case <-t.ctx.Done():
			return t.detach(nil)
		case <-watch.C:
		}
		stalls++
		if n := t.progress.Load(); n != last {
			last, stalls = n, 0
		}
		switch {
		case stalls > 0 && t.finished.Load():
			// The answer is complete, but the node neither sends [DONE] nor ends it.
			return t.detachComplete()
		case stalls < idleChecks:
		case t.writing.Load():
			t.slow.Store(true)
			t.interruptWrite()
		default:
			return t.detach(errIdle)
		}
	}
}

// detachComplete ends an answer whose client has everything but the end marker.
func (t *transfer) detachComplete() Result {
	t.lockWriter()
	t.detached = true
	err := t.writeErr
	<-t.writer
	t.boundDrain()
	if err != nil {
		return Result{Failure: t.clientFailure(), Begun: true}
	}
	return Result{Begun: true}
}

// detach ends the answer for the client while read still runs. If stalled is
// not nil, the node stalls and its request is cancelled with that cause;
// otherwise the rest of its answer is drained.
func (t *transfer) detach(stalled error) Result {
	t.lockWriter()
	f := t.clientFailure()
	if stalled != nil && t.writeErr == nil {
		f = &Failure{Cause: outcome.Provider, Code: outcome.CodeProviderTimeout, Err: stalled}
	}
	t.detached = true
	held := t.held
	<-t.writer
	switch {
	case held:
		<-t.forwarded
		return Result{Failure: f, Held: true, Drained: t.drained}
	case stalled != nil:
		t.Cancel(stalled)
	default:
		t.boundDrain()
	}
	return t.reportFailure(f)
}

// complete ends the answer after read has forwarded all but its end.
func (t *transfer) complete() Result {
	defer t.relay.buffers.Put(t.buf)
	switch {
	case t.panicked != nil:
		panic(t.panicked)
	case t.held:
		return Result{Failure: t.failure, Held: true, Drained: t.drained}
	case t.failure != nil:
		return t.reportFailure(t.failure)
	}
	delay := time.NewTimer(releaseDelay)
	defer delay.Stop()
	select {
	case <-t.released:
	case <-delay.C:
	case <-t.ctx.Done():
	}
	if len(t.tail) > 0 {
		if err := t.writeNow(t.tail, t.stream); err != nil {
			t.writeErr = err
			return t.reportFailure(t.clientFailure())
		}
	}
	return Result{Begun: true}
}

// reportFailure ends an answer that has begun with an error event, or asks for
// the connection to be aborted if it is no stream. No other goroutine may write
// meanwhile.
func (t *transfer) reportFailure(f *Failure) Result {
	result := Result{Failure: f, Begun: t.begun}
	switch {
	case !t.begun, f.Cause == outcome.ClientLeft:
	case !t.stream:
		result.Abort = true
	default:
		text := []byte(`{"error":{"message":"The answer broke off.","type":"upstream_error","code":"stream_interrupted"}}`)
		if t.Describe != nil {
			text = t.Describe(f)
		}
		var event bytes.Buffer
		event.WriteString("data: ")
		_ = json.Compact(&event, text) // one line
		event.WriteString("\n\n")
		_ = t.writeNow(event.Bytes(), true)
	}
	return result
}
