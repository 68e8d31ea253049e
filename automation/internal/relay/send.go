package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrAbandoned is why Send has no answer: the client's context ended first.
var ErrAbandoned = errors.New("relay: the client did not wait for the answer")

// An Attempt is a request to the node.
type Attempt struct {
	// Send sends the request and returns the node's answer, with its body unread.
	// The request's context must not end with the client's.
	Send func() (*http.Response, error)
	// Cancel ends the request's context.
	Cancel context.CancelCauseFunc
	// Release is called once if Send returns ErrAbandoned; see [Answer].Release.
	Release func(drained bool)
}

// Send returns the node's answer to a request. A client that leaves does not
// stop the node from working on it. If the client's ctx ends before the node
// answers, Send returns an error that wraps ErrAbandoned and the cause of ctx, and
// the answer is drained in the background, for at most 2 minutes and 64 MiB.
func (r *Relay) Send(ctx context.Context, a Attempt) (*http.Response, error) {
	type answer struct {
		resp *http.Response
		err  error
	}
	var decided atomic.Bool // set by what comes first: the answer, or the end of ctx
	answers := make(chan answer, 1)
	timer := time.AfterFunc(r.drainTimeout, func() { a.Cancel(errDrainTimeout) })
	timer.Stop()
	task := r.start(a.Cancel, func() {
		resp, err := a.Send() //nolint:bodyclose // closed below, or the caller's
		if decided.CompareAndSwap(false, true) {
			answers <- answer{resp, err}
			return
		}
		defer timer.Stop()
		drained := ClosedByNode(err)
		if err == nil {
			drained = drain(resp)
		}
		a.Cancel(nil)
		a.Release(drained)
	})
	if task == nil {
		a.Cancel(ErrClosed)
		return nil, ErrClosed
	}
	select {
	case got := <-answers:
		return got.resp, got.err
	case <-ctx.Done():
	}
	timer.Reset(r.drainTimeout)
	if decided.CompareAndSwap(false, true) {
		r.moveToBackground(task)
		return nil, fmt.Errorf("%w: %w", ErrAbandoned, context.Cause(ctx))
	}
	timer.Stop()
	got := <-answers
	return got.resp, got.err
}

// drain reads an answer to its end, up to drainBytes, and closes it. It reports
// whether the node is done with the request.
func drain(resp *http.Response) bool {
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return false // the body is a connection, which has no end
	}
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, drainBytes))
	return (err == nil || ClosedByNode(err)) && n < drainBytes
}

// ClosedByNode reports whether an exchange failed because the node closed the
// connection. The node is then done with the request, as after a complete answer.
// If a time-out or this process ended the exchange, it may still be at work.
func ClosedByNode(err error) bool {
	return slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE},
		func(closed error) bool { return errors.Is(err, closed) })
}
