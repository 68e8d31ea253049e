package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// Why an answer failed.
var (
	errEmpty      = errors.New("relay: the answer is empty")
	errUnfinished = errors.New("relay: the stream ended without [DONE] or a finish_reason")
	errHalfEvent  = errors.New("relay: the stream ended within an event")
	errErrorEvent = errors.New("relay: the node sent an error in place of an answer")
	errInvalid    = errors.New("relay: the answer is no valid JSON")
	errTruncated  = errors.New("relay: the answer is shorter than its Content-Length")
	errIdle       = errors.New("relay: the node sent nothing for too long")
	errSlowClient = errors.New("relay: the client read nothing for too long")
	errSlowError  = errors.New("relay: the error's text took too long")
	errDrained    = errors.New("relay: the node was still sending when the time to drain it was over")
)

// transfer is one answer on its way. The goroutine read reads the node and
// writes to the client until it settles what remains to be written, and then
// drains the node. The goroutine wait, Copy's, watches it, detaches the client
// where it must not wait any longer, and writes what remains.
type transfer struct {
	Answer
	relay  *Relay
	ctx    context.Context //nolint:containedctx // the client's, for the time of Copy
	w      http.ResponseWriter
	rc     *http.ResponseController
	stream bool // of server-sent events

	// writer is a mutex that can be waited for with a time-out; it holds one
	// value while locked. It guards what follows.
	writer   chan struct{}
	detached bool  // the client gets nothing more from read
	begun    bool  // the header is written
	writeErr error // why the client cannot be written to
	held     bool  // Release is not called

	progress atomic.Int64 // counts reads and writes
	finished atomic.Bool  // a stream is whole even if it ends without [DONE]
	writing  atomic.Bool
	slow     atomic.Bool // a write was ended because the client does not read

	// Written by read before it closes settled.
	settled  chan struct{}
	buf      *[]byte // a pooled buffer
	tail     []byte  // what remains to be written, perhaps part of buf
	failure  *Failure
	panicked any  // what writing to the client panicked with
	drained  bool // the node has been read to its end, or has closed the connection

	drainOnce  sync.Once // starts drainTimer
	drainTimer *time.Timer
	released   chan struct{} // closed after Release
}

func newTransfer(ctx context.Context, r *Relay, w http.ResponseWriter, a Answer) *transfer {
	t := &transfer{Answer: a, relay: r, ctx: ctx, w: w, rc: http.NewResponseController(w),
		writer: make(chan struct{}, 1), settled: make(chan struct{}), released: make(chan struct{})}
	t.drainTimer = time.AfterFunc(r.opts.DrainTimeout, func() { t.Cancel(errDrained) })
	t.drainTimer.Stop()
	mediaType, _, _ := mime.ParseMediaType(a.Response.Header.Get("Content-Type"))
	t.stream = mediaType == "text/event-stream" && !t.isEncoded()
	return t
}

// isEncoded reports whether the body cannot be understood as it is.
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

// read is the goroutine that reads the node.
func (t *transfer) read() {
	t.drained = t.forward()
	held := t.leaveToCaller()
	close(t.settled)
	if !t.drained && !held {
		t.boundDrain()
		t.drained = drain(t.Response)
	}
	t.Cancel(nil)
	_ = t.Response.Body.Close() // again, where it was drained
	if !held {
		t.Release(t.drained)
	}
	close(t.released)
	t.drainTimer.Stop()
}

// leaveToCaller reports whether the answer failed before the client got any of
// it, so that Copy's caller keeps the session.
func (t *transfer) leaveToCaller() bool {
	t.writer <- struct{}{}
	t.held = t.failure != nil && !t.begun && !t.detached
	<-t.writer
	return t.held
}

// forward passes the answer on until it knows what remains to be written. It
// reports whether the node has been read to its end.
func (t *transfer) forward() (ended bool) {
	defer func() {
		t.panicked = recover()
	}()
	t.buf = t.relay.buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is put there
	if t.stream {
		return t.forwardEvents(*t.buf)
	}
	return t.forwardBody(*t.buf)
}

// fail settles the answer as failed.
func (t *transfer) fail(err error, body []byte) {
	t.failure = &Failure{Cause: outcome.Provider, Code: outcome.CodeStreamInterrupted, Body: body, Err: err}
	if body != nil || !t.begun { // only read writes begun before it is detached
		t.failure.Code = outcome.CodeProviderError
	}
}

// failRead settles an answer whose body cannot be read any further.
func (t *transfer) failRead(err error) {
	t.fail(fmt.Errorf("relay: the answer broke off: %w", err), nil)
	if t.Response.Request == nil {
		return
	}
	// The request's context ends early when the session's lease is lost or the
	// process stops.
	cause := context.Cause(t.Response.Request.Context())
	switch {
	case cause == nil:
	case errors.Is(cause, ErrClosed):
		t.failure.Cause, t.failure.Err = outcome.Host, cause
	default:
		t.failure.Cause, t.failure.Err = outcome.Database, cause
	}
	if cause != nil && !t.begun {
		t.failure.Code = outcome.CodeSessionUnavailable
	}
}

// nextRead reads once. It returns io.EOF only at the answer's true end.
func (t *transfer) nextRead(p []byte) (int, error) {
	n, err := t.Response.Body.Read(p)
	t.progress.Add(1)
	return n, err
}

// forwardEvents passes a stream of server-sent events on. [DONE] and what comes
// after it is not written: it remains.
func (t *transfer) forwardEvents(buf []byte) (ended bool) {
	s := scanner{buf: buf[:0]}
	for {
		n, readErr := t.nextRead(s.free())
		s.fill(n)
		for {
			e, err := s.scan()
			if err != nil {
				return t.forwardForeign(&s, err, readErr)
			}
			if e.raw == nil {
				if readErr == io.EOF && s.finish() { //nolint:errorlint // io.Reader's contract
					continue
				}
				break
			}
			switch kindOf(e.data) {
			case eventDone:
				if !t.write(s.take(len(e.raw))) {
					return false
				}
				t.tail = e.raw
				return readErr == io.EOF //nolint:errorlint // io.Reader's contract
			case eventError:
				if t.write(s.take(len(e.raw))) {
					t.fail(errErrorEvent, bytes.Clone(e.data))
				}
				return false
			case eventFinish:
				t.finished.Store(true)
			case eventOther:
			}
		}
		if !t.write(s.take(0)) {
			return false
		}
		switch {
		case readErr == io.EOF: //nolint:errorlint // io.Reader's contract
			switch {
			case len(bytes.TrimSpace(s.unfinished())) > 0:
				t.fail(errHalfEvent, nil)
			case !s.seen:
				t.fail(errEmpty, nil)
			case !t.finished.Load():
				t.fail(errUnfinished, nil)
			}
			return true
		case readErr != nil:
			t.failRead(readErr)
			return ClosedByNode(readErr)
		}
	}
}

// forwardForeign ends a stream in which stands something other than events:
// the node appends its errors as bare JSON. cause is what the scanner says.
func (t *transfer) forwardForeign(s *scanner, cause, readErr error) (ended bool) {
	if !t.write(s.take(0)) {
		return false
	}
	rest := bytes.Clone(s.foreign())
	if readErr == nil && errors.Is(cause, errNotEvent) {
		timer := time.AfterFunc(errorTimeout, func() { t.Cancel(errSlowError) })
		defer timer.Stop()
		var more []byte
		more, readErr = io.ReadAll(io.LimitReader(t.Response.Body, max(0, int64(maxErrorLen-len(rest)))))
		rest = append(rest, more...)
		ended = readErr == nil && len(rest) < maxErrorLen
	}
	t.fail(cause, rest[:min(len(rest), maxErrorLen)])
	return ended || ClosedByNode(readErr)
}

// forwardBody passes on an answer that is no stream of events. Nobody can use
// half of a JSON text, so one that fits into buf goes out as a whole or not at
// all. Anything else goes out as it comes.
func (t *transfer) forwardBody(buf []byte) (ended bool) {
	mediaType, _, _ := mime.ParseMediaType(t.Response.Header.Get("Content-Type"))
	isJSON := mediaType == "application/json" && !t.isEncoded()
	missing := t.Response.ContentLength // -1: unknown
	held, total, lastByte := 0, int64(0), byte(0)
	for {
		n, err := t.nextRead(buf[held:])
		if text := bytes.TrimSpace(buf[held : held+n]); len(text) > 0 {
			lastByte = text[len(text)-1]
		}
		held += n
		total += int64(n)
		ended = err == io.EOF //nolint:errorlint // io.Reader's contract
		if missing >= 0 && total == missing {
			err = io.EOF // for the client; the node is drained
		}
		switch {
		case err == io.EOF && total == 0: //nolint:errorlint // io.Reader's contract
			t.fail(errEmpty, nil)
			return ended
		case err == io.EOF && total < missing: //nolint:errorlint // io.Reader's contract
			t.fail(errTruncated, nil)
			return ended
		case err == io.EOF: //nolint:errorlint // io.Reader's contract
			switch {
			case isJSON && total == int64(held): // all of it is here
				t.checkJSON(buf[:held])
				t.Response.ContentLength = total
			case isJSON && lastByte != '}' && lastByte != ']':
				t.fail(errInvalid, nil)
			}
			t.tail = buf[:held]
			return ended
		case err != nil:
			t.failRead(err)
			return ClosedByNode(err)
		case held == len(buf) || !isJSON:
			if !t.write(buf[:held]) {
				return false
			}
			held = 0
		}
	}
}

// checkJSON fails an answer that is no JSON, or an error with the status of a
// success.
func (t *transfer) checkJSON(text []byte) {
	switch {
	case !json.Valid(text):
		t.fail(errInvalid, nil)
	case isError(text):
		t.fail(errErrorEvent, bytes.Clone(text))
	}
}

// write writes p to the client at once. It returns false when the client gets
// no more, and settles the answer if that is the client's doing.
func (t *transfer) write(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	t.writer <- struct{}{}
	defer func() { <-t.writer }()
	if t.detached {
		return false
	}
	if err := t.writeNow(p, t.stream || t.Response.ContentLength < 0); err != nil {
		t.detached, t.writeErr = true, err
		t.failure = t.clientFailure()
		return false
	}
	return true
}

// writeNow writes p, after the header if that is still to come. The caller has
// the writer to itself.
func (t *transfer) writeNow(p []byte, flush bool) error {
	t.begin()
	t.writing.Store(true)
	defer t.writing.Store(false)
	_, err := t.w.Write(p)
	if err == nil && flush {
		err = t.rc.Flush()
		if errors.Is(err, http.ErrNotSupported) {
			err = nil // the host's writer buffers
		}
	}
	t.progress.Add(1)
	return err
}

func (t *transfer) begin() {
	if t.begun {
		return
	}
	t.begun = true
	h := t.w.Header()
	CopyHeader(h, t.Response.Header)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	switch {
	case t.stream: // an error may follow
		h.Set("X-Accel-Buffering", "no")
	case t.Response.ContentLength >= 0:
		h.Set("Content-Length", strconv.FormatInt(t.Response.ContentLength, 10))
	}
	t.w.WriteHeader(t.Response.StatusCode)
}

// boundDrain gives the node DrainTimeout from its first call on.
func (t *transfer) boundDrain() {
	t.drainOnce.Do(func() { t.drainTimer.Reset(t.relay.opts.DrainTimeout) })
	select {
	case <-t.released: // too late
		t.drainTimer.Stop()
	default:
	}
}

// clientFailure is why the client gets nothing more, as far as it or its host
// is to blame.
func (t *transfer) clientFailure() *Failure {
	left := &Failure{Cause: outcome.ClientLeft, Code: outcome.CodeClientLeft, Err: t.writeErr}
	host := &Failure{Cause: outcome.Host, Code: outcome.CodeSessionUnavailable, Err: t.writeErr}
	if t.begun {
		host.Code = outcome.CodeStreamInterrupted
	}
	switch {
	case t.slow.Load():
		left.Err = errSlowClient
		return left
	case errors.Is(t.writeErr, os.ErrDeadlineExceeded), errors.Is(t.writeErr, http.ErrHandlerTimeout):
		return host // the server's WriteTimeout, or the like
	}
	// net/http cancels the context of a client that leaves without a cause.
	if cause := context.Cause(t.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		host.Err = cause
		return host
	}
	if t.writeErr == nil {
		left.Err = t.ctx.Err()
	}
	return left
}

// wait watches read until the client has all that it gets.
func (t *transfer) wait() Result {
	watch := time.NewTicker(max(t.relay.opts.IdleTimeout/idleChecks, 1))
	defer watch.Stop()
	last, stalls := int64(-1), 0
	for {
		select {
		case <-t.settled:
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
			// The node neither says [DONE] nor ends an answer that is complete.
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

// interruptWrite makes a write fail that the client does not read.
func (t *transfer) interruptWrite() {
	_ = t.rc.SetWriteDeadline(time.Unix(1, 0)) // where it is not supported, the host's server must end it
}

func (t *transfer) lockWriter() {
	select {
	case t.writer <- struct{}{}:
	case <-time.After(lastWrite):
		t.interruptWrite()
		t.writer <- struct{}{}
	}
}

// detachComplete ends an answer of which the client has all that matters.
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

// detach ends the answer for the client while read is still at work. A node
// that stalls is given up; otherwise the rest of its answer is drained.
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
		<-t.settled
		return Result{Failure: f, Held: true, Drained: t.drained}
	case stalled != nil:
		t.Cancel(stalled)
	default:
		t.boundDrain()
	}
	return t.reportFailure(f)
}

// complete writes what remains once read has settled it.
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

// reportFailure tells the client of a failure where the answer has begun. The
// writer is the caller's alone.
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
