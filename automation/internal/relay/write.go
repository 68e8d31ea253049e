package relay

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// write writes p to the client at once. It returns false when nothing more may
// be written. If writing fails, it records why.
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

// writeNow writes p, after the header if that has not been written. No other
// goroutine may write meanwhile.
func (t *transfer) writeNow(p []byte, flush bool) error {
	t.begin()
	t.writing.Store(true)
	defer t.writing.Store(false)
	_, err := t.w.Write(p)
	if err == nil && flush {
		err = t.rc.Flush()
		if errors.Is(err, http.ErrNotSupported) {
			err = nil // the host's writer cannot flush
		}
	}
	t.progress.Add(1)
	return err
}

// begin writes the status and the header once.
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
	case t.stream: // no Content-Length: an error event may follow
		h.Set("X-Accel-Buffering", "no")
	case t.Response.ContentLength >= 0:
		h.Set("Content-Length", strconv.FormatInt(t.Response.ContentLength, 10))
	}
	t.w.WriteHeader(t.Response.StatusCode)
}

// clientFailure returns why nothing more can be written to the client: either
// the client has left, or the host has ended the request.
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
	// When a client leaves, net/http cancels its context without a cause.
	if cause := context.Cause(t.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		host.Err = cause
		return host
	}
	if t.writeErr == nil {
		left.Err = t.ctx.Err()
	}
	return left
}

// interruptWrite ends a write that blocks because the client does not read.
func (t *transfer) interruptWrite() {
	_ = t.rc.SetWriteDeadline(time.Unix(1, 0)) // if it is not supported, only the host's server can end the write
}

// lockWriter locks writer. It interrupts a write that still blocks after
// lastWrite.
func (t *transfer) lockWriter() {
	select {
	case t.writer <- struct{}{}:
	case <-time.After(lastWrite):
		t.interruptWrite()
		t.writer <- struct{}{}
	}
}
