package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// read is the goroutine that reads the node.
func (t *transfer) read() {
	t.drained = t.forward()
	held := t.decideHeld()
	if t.PrepareRelease != nil && !held && (t.drained || t.failure == nil) {
		t.PrepareRelease()
	}
	close(t.forwarded)
	if !t.drained && !held {
		t.boundDrain()
		t.drained = drain(t.Response)
	}
	t.Cancel(nil)
	_ = t.Response.Body.Close() // closing it again after drain does no harm
	if !held {
		t.Release(t.drained)
	}
	close(t.released)
	t.drainTimer.Stop()
}

// forward passes on all of the answer but its end, which it stores in tail. It
// reports whether the node has been read to its end or has closed the connection.
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

// fail records why the answer failed.
func (t *transfer) fail(err error, body []byte) {
	t.failure = &Failure{Cause: outcome.Provider, Code: outcome.CodeStreamInterrupted, Body: body, Err: err}
	if body != nil || !t.begun { // no lock: until it is detached, only read sets begun
		t.failure.Code = outcome.CodeProviderError
	}
}

// failRead records the failure of an answer whose body cannot be read any further.
func (t *transfer) failRead(err error) {
	t.fail(fmt.Errorf("relay: the answer broke off: %w", err), nil)
	if t.Response.Request == nil {
		return
	}
	// The request's context ends early if the session's lease is lost or the
	// relay is closed.
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

// nextRead reads from the node once, which counts as progress.
func (t *transfer) nextRead(p []byte) (int, error) {
	n, err := t.Response.Body.Read(p)
	t.progress.Add(1)
	return n, err
}

// forwardEvents passes on a stream of server-sent events up to [DONE], which it
// stores in tail.
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

// forwardForeign ends a stream in which something other than an event follows:
// the node appends its errors as bare JSON. cause is the scanner's error.
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

// forwardBody passes on an answer that is not a stream of events. Nobody can use
// half of a JSON text, so one that fits into buf is passed on as a whole or not
// at all. Anything else is passed on as it comes.
func (t *transfer) forwardBody(buf []byte) (ended bool) {
	mediaType, _, _ := mime.ParseMediaType(t.Response.Header.Get("Content-Type"))
	isJSON := mediaType == "application/json" && !t.isEncoded()
	length := t.Response.ContentLength // -1: unknown
	buffered, total, lastByte := 0, int64(0), byte(0)
	for {
		n, err := t.nextRead(buf[buffered:])
		if text := bytes.TrimSpace(buf[buffered : buffered+n]); len(text) > 0 {
			lastByte = text[len(text)-1]
		}
		buffered += n
		total += int64(n)
		ended = err == io.EOF //nolint:errorlint // io.Reader's contract
		if length >= 0 && total == length {
			err = io.EOF // complete for the client; the node may have to be drained
		}
		switch {
		case err == io.EOF && total == 0: //nolint:errorlint // io.Reader's contract
			t.fail(errEmpty, nil)
			return ended
		case err == io.EOF && total < length: //nolint:errorlint // io.Reader's contract
			t.fail(errTruncated, nil)
			return ended
		case err == io.EOF: //nolint:errorlint // io.Reader's contract
			switch {
			case isJSON && total == int64(buffered): // nothing has been written yet
				t.checkJSON(buf[:buffered])
				t.Response.ContentLength = total
			case isJSON && lastByte != '}' && lastByte != ']':
				t.fail(errInvalid, nil)
			}
			t.tail = buf[:buffered]
			return ended
		case err != nil:
			t.failRead(err)
			return ClosedByNode(err)
		case buffered == len(buf) || !isJSON:
			if !t.write(buf[:buffered]) {
				return false
			}
			buffered = 0
		}
	}
}

// checkJSON records a failure if the answer is not valid JSON, or is an error
// with a 2xx status.
func (t *transfer) checkJSON(text []byte) {
	switch {
	case !json.Valid(text):
		t.fail(errInvalid, nil)
	case isError(text):
		t.fail(errErrorEvent, bytes.Clone(text))
	}
}
