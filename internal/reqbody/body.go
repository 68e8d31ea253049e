package reqbody

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

const (
	firstBuffer  = 64 << 10 // the first buffer's size
	firstUnknown = 4 << 10  // the same for a body of unknown length
	slowInterval = 10 * time.Second
	slowBytes    = 10 << 10 // the minimum in each slowInterval
)

// Errors of reading a body.
var (
	// ErrTooLarge: the body is longer than MaxBytes or its Content-Length.
	ErrTooLarge = errors.New("reqbody: the body is too large")
	// ErrOverBudget: other bodies use the memory. It may be free later.
	ErrOverBudget = errors.New("reqbody: the memory for bodies is in use")
	// ErrTooSlow: the client sends less than 10 KiB in 10 seconds. Its connection
	// cannot be used for another request.
	ErrTooSlow = errors.New("reqbody: the client sends too slowly")
)

// Options are the bounds of a Body. Both fields are required.
type Options struct {
	MaxBytes int64
	Budget   *Budget
}

// A Body is the body of one request. It is not safe for concurrent use.
type Body struct {
	opts        Options
	source      io.ReadCloser
	length      int64 // the Content-Length; -1: unknown
	contentType string
	buf         []byte
	err         error // the error that ended reading; io.EOF: the body is complete

	slow slowGuard
}

// New returns the body of r. It reads nothing yet. With w, the ResponseWriter of the same
// request, it can end the connection of a client that sends too slowly.
func New(w http.ResponseWriter, r *http.Request, o Options) *Body {
	b := &Body{opts: o, source: r.Body, length: r.ContentLength, contentType: r.Header.Get("Content-Type")}
	if b.source == nil {
		b.source = http.NoBody
	}
	b.slow.conn = http.NewResponseController(w)
	return b
}

// Model returns the name of the model that the body asks for, or "" if it has none. It
// reads up to the model, at most MaxBytes. Its errors are those of this package,
// modelscan.ErrSyntax, modelscan.ErrNoString, and errors of the connection.
func (b *Body) Model() (string, error) {
	for scanned := 0; ; {
		b.read()
		more := b.err == nil && !b.isTooLarge()
		// Each scan starts from the beginning, so the next one waits until the data is
		// eight times as long.
		if more && len(b.buf) < 8*scanned {
			continue
		}
		if b.err != nil && b.err != io.EOF { //nolint:errorlint // io.Reader's contract
			return "", b.err
		}
		scanned = len(b.buf)
		model, err := modelscan.Find(b.contentType, b.buf[:min(int64(scanned), b.opts.MaxBytes)])
		if errors.Is(err, modelscan.ErrIncomplete) {
			if more {
				continue
			}
			if b.isTooLarge() {
				err = ErrTooLarge
			}
		}
		b.slow.stop()
		return model, err
	}
}

// isTooLarge reports whether more than MaxBytes have been read.
func (b *Body) isTooLarge() bool { return int64(len(b.buf)) > b.opts.MaxBytes }

// Bytes reads the body to its end and returns it. The bytes remain valid after Close,
// but then no longer count in the budget.
func (b *Body) Bytes() ([]byte, error) {
	if b.err == nil && b.length > b.opts.MaxBytes {
		return nil, ErrTooLarge
	}
	for b.err == nil && !b.isTooLarge() {
		b.read()
	}
	switch {
	case b.isTooLarge():
		b.slow.stop()
		return nil, ErrTooLarge
	case b.err != io.EOF: //nolint:errorlint // io.Reader's contract
		return nil, b.err
	}
	return b.buf, nil
}

// Reader returns the whole body for another handler. Only the part that Model has read
// is in memory. Closing the reader closes the request's body.
func (b *Body) Reader() io.ReadCloser {
	var rest io.Reader = b.source
	switch {
	case b.err != nil:
		rest = failedReader{b.err}
	case b.length >= 0:
		// An http.Transport that forwards the body reads once more after its last byte. By then
		// the server may have closed the body, because the response has begun. The transport
		// would abort the response because of that error (golang/go#40747).
		rest = io.LimitReader(b.source, b.length-int64(len(b.buf)))
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b.buf), rest), b.source}
}

// failedReader reads nothing and returns its error.
type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// Close returns the body's memory to the budget. Further calls do nothing.
func (b *Body) Close() {
	b.slow.stop()
	b.opts.Budget.release(int64(cap(b.buf)))
	b.buf = nil
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
}

// read reads once, unless reading has ended. It reads at most one byte more
// than MaxBytes.
func (b *Body) read() {
	if b.err != nil || b.isTooLarge() {
		return
	}
	isFull := int64(len(b.buf)) == b.length
	var extra [1]byte
	free := extra[:] // to read the end of a body that fills its buffer
	if !isFull {
		if b.err = b.grow(); b.err != nil {
			b.slow.stop()
			return
		}
		free = b.buf[len(b.buf):cap(b.buf)]
	}
	b.slow.start()
	n, err := b.source.Read(free)
	if isFull && n > 0 {
		err = ErrTooLarge // longer than its Content-Length
	} else {
		b.buf = b.buf[:len(b.buf)+n]
	}
	if err != nil {
		if b.slow.stop() {
			err = ErrTooSlow
		}
		b.err = err
		return
	}
	b.slow.count(n)
}

// grow makes room in the buffer if it is full.
func (b *Body) grow() error {
	if len(b.buf) < cap(b.buf) {
		return nil
	}
	size := int64(2 * cap(b.buf))
	switch {
	case b.length >= 0 && cap(b.buf) == 0:
		size = min(b.length, firstBuffer)
	case b.length >= 0:
		size = b.length
	case size == 0:
		size = firstUnknown
	}
	size = min(size, b.opts.MaxBytes+1) // the additional byte shows that a body is too large
	if !b.opts.Budget.reserve(size) {
		return fmt.Errorf("%w: %d more bytes are needed", ErrOverBudget, size)
	}
	grown := make([]byte, len(b.buf), size)
	copy(grown, b.buf)
	b.opts.Budget.release(int64(cap(b.buf)))
	b.buf = grown
	return nil
}

// slowGuard ends reading from a client that sends too slowly.
type slowGuard struct {
	conn *http.ResponseController

	mu       sync.Mutex
	timer    *time.Timer // nil: not running
	received int         // bytes since the timer was set
	wasSlow  bool        // reading was ended
}

func (g *slowGuard) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer == nil {
		g.timer, g.received = time.AfterFunc(slowInterval, g.check), 0
	}
}

func (g *slowGuard) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.received += n
}

func (g *slowGuard) check() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.timer == nil: // stopped before the lock was acquired
	case g.received < slowBytes:
		g.wasSlow = true
		_ = g.conn.SetReadDeadline(time.Unix(1, 0)) // if it is not supported, the host's server has to end the connection
	default:
		g.received = 0
		g.timer.Reset(slowInterval)
	}
}

// stop stops the guard until the next start. It reports whether the guard has ended
// reading.
func (g *slowGuard) stop() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	return g.wasSlow
}

// LimitUnread limits how long the server reads the rest of a request's body after its
// handler has returned. The server reads it before it sends a short response, so a client
// that sends slowly could otherwise keep the connection.
func LimitUnread(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(d)) //nolint:forbidigo // a socket's deadline is on the real clock
}
