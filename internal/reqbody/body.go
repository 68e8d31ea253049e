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
	firstBuffer  = 64 << 10
	firstUnknown = 4 << 10 // of a body whose length is not known
	slowInterval = 10 * time.Second
	slowBytes    = 10 << 10 // in slowInterval
)

// Why a body cannot be had.
var (
	// ErrTooLarge: more than MaxBytes would have to be read.
	ErrTooLarge = errors.New("reqbody: the body is too large")
	// ErrOverBudget: other bodies take the memory. Later it may be free.
	ErrOverBudget = errors.New("reqbody: the memory for bodies is in use")
	// ErrTooSlow: the client sends less than 10 KiB in 10 seconds. Its connection
	// cannot be used for another request.
	ErrTooSlow = errors.New("reqbody: the client sends too slowly")
)

// Options of a Body. Both are required.
type Options struct {
	MaxBytes int64
	Budget   *Budget
}

// A Body is the body of one request. It is not safe for concurrent use.
type Body struct {
	opts        Options
	source      io.ReadCloser
	length      int64 // -1: not known
	contentType string
	buf         []byte
	err         error // what ended reading; io.EOF: its end

	slow slowGuard
}

// New returns the body of r, whose answer is written to w. It reads nothing yet.
func New(w http.ResponseWriter, r *http.Request, o Options) *Body {
	b := &Body{opts: o, source: r.Body, length: r.ContentLength, contentType: r.Header.Get("Content-Type")}
	if b.source == nil {
		b.source = http.NoBody
	}
	b.slow.conn = http.NewResponseController(w)
	return b
}

// Model returns the name of the model that the body asks for, or "" if it names
// none. It reads as far as it must, at most MaxBytes. Besides the errors of this package and of
// reading it returns modelscan.ErrSyntax and modelscan.ErrNoString.
func (b *Body) Model() (string, error) {
	for scanned := 0; ; {
		b.read()
		more := b.err == nil && !b.isTooLarge()
		// Each scan starts from the beginning, so wait until there is much more
		// to look at.
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

// Bytes reads the body to its end and returns it. It remains valid after Close,
// but is not counted in the budget any more.
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

// Reader returns the whole body for another handler, of which only what Model
// read is in memory. Closing it closes the request's.
func (b *Body) Reader() io.ReadCloser {
	var rest io.Reader = b.source
	switch {
	case b.err != nil:
		rest = failedReader{b.err}
	case b.length >= 0:
		// A transport that sends the body on reads once more after its last byte. By then the
		// server may have closed the body, because the answer has begun, and the transport
		// would take the error for a reason to cut the answer (golang/go#40747).
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

// Close gives the body's memory back to the budget. It works once.
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
	var beyond [1]byte
	free := beyond[:] // to read the end of a body that fills its buffer
	if int64(len(b.buf)) != b.length {
		if b.err = b.grow(); b.err != nil {
			b.slow.stop()
			return
		}
		free = b.buf[len(b.buf):cap(b.buf)]
	}
	b.slow.start()
	n, err := b.source.Read(free)
	switch {
	case int64(len(b.buf)) == b.length && n > 0:
		err = ErrTooLarge // than it said
	default:
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
	size = min(size, b.opts.MaxBytes+1) // with the byte that is one too many
	if !b.opts.Budget.take(size) {
		return fmt.Errorf("%w: %d bytes more", ErrOverBudget, size)
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
	received int         // since the timer was set
	cut      bool
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
	case g.timer == nil: // stopped meanwhile
	case g.received < slowBytes:
		g.cut = true
		_ = g.conn.SetReadDeadline(time.Unix(1, 0)) // where it is not supported, the host's server must end it
	default:
		g.received = 0
		g.timer.Reset(slowInterval)
	}
}

// stop stops the guard until the next start. It reports whether it has cut the
// client off.
func (g *slowGuard) stop() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	return g.cut
}

// LimitUnread bounds how long the server reads what is left of a request's body
// once its handler has answered: it does so before it sends a short answer, so a
// client that sends slowly could keep the connection.
func LimitUnread(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(d)) //nolint:forbidigo // a socket's deadline is on the real clock
}
