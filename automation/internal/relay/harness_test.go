package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	delta  = `data: {"choices":[{"delta":{"content":"Hello"},"finish_reason":null}]}` + "\n\n"
	finish = `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	done   = "data: [DONE]\n\n"
)

// client records what a client gets.
type client struct {
	begun  time.Time
	header http.Header

	mu      sync.Mutex
	status  int
	body    bytes.Buffer
	writes  []write
	fail    error         // what the next writes return
	blocked chan struct{} // if not nil, writes wait for it or for SetWriteDeadline
	ended   chan struct{} // closed by SetWriteDeadline
}

type write struct {
	at   time.Duration
	text string
}

func newClient() *client {
	return &client{begun: time.Now(), header: http.Header{}, ended: make(chan struct{})}
}

func (c *client) Header() http.Header { return c.header }
func (c *client) Flush()              {}
func (c *client) WriteHeader(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status != 0 {
		panic("WriteHeader was called twice")
	}
	c.status = status
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	blocked := c.blocked
	c.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-c.ended:
			return 0, errors.New("the write deadline has passed")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return 0, c.fail
	}
	c.writes = append(c.writes, write{time.Since(c.begun), string(p)})
	return c.body.Write(p)
}

func (c *client) SetWriteDeadline(time.Time) error {
	close(c.ended)
	return nil
}

func (c *client) received() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.String()
}

// receivedAt returns how long it took until the client had received the text.
func (c *client) receivedAt(t *testing.T, text string) time.Duration {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	received := ""
	for _, w := range c.writes {
		if received += w.text; strings.Contains(received, text) {
			return w.at
		}
	}
	t.Fatalf("the client received %q, without %q", received, text)
	return 0
}

// node is a node that answers one request with a body that the test writes.
type node struct {
	relay.Answer
	body *io.PipeWriter
	ctx  context.Context //nolint:containedctx // of the request to the node

	mu       sync.Mutex
	releases []bool        // the argument of each call of Release
	released chan struct{} // closed by the first call
}

// newNode returns a node whose answer has a body of that type. The body ends
// when the request is cancelled.
func newNode(ctx context.Context, contentType string) *node {
	r, w := io.Pipe()
	n := &node{body: w, released: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(ctx)
	n.ctx = ctx
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/v1/chat/completions", nil)
	if err != nil {
		panic(err)
	}
	n.Response = &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {contentType}},
		Body: r, ContentLength: -1, Request: request}
	n.Cancel = cancel
	n.Release = func(drained bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.releases = append(n.releases, drained)
		if len(n.releases) == 1 {
			close(n.released)
		}
	}
	return n
}

// send writes to the answer's body. It ignores errors: the reader may have left.
func (n *node) send(text string) { _, _ = io.WriteString(n.body, text) }

// end ends the body.
func (n *node) end() { _ = n.body.Close() }

// newNodeWithBody returns a node that sends the whole body at once, after which
// the reader gets the error end.
func newNodeWithBody(ctx context.Context, contentType, body string, end error) *node {
	n := newNode(ctx, contentType)
	go func() {
		n.send(body)
		_ = n.body.CloseWithError(end)
	}()
	return n
}

// wantRelease waits for the session's release, and checks that Release was called
// once and with drained.
func (n *node) wantRelease(t *testing.T, drained bool) {
	t.Helper()
	<-n.released
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.releases) != 1 || n.releases[0] != drained {
		t.Errorf("Release was called with %v, want once with %t", n.releases, drained)
	}
}

// wantNoRelease checks that the session has not been released.
func (n *node) wantNoRelease(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.releases) != 0 {
		t.Errorf("Release was called with %v though nothing has reached the client", n.releases)
	}
}
