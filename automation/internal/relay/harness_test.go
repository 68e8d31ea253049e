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
	blocked chan struct{} // not nil: writes wait for it, or for a deadline
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
		panic("a second status")
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
			return 0, errors.New("a deadline has passed")
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

func (c *client) got() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.String()
}

// at returns when the client had got the text.
func (c *client) at(t *testing.T, text string) time.Duration {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	sofar := ""
	for _, w := range c.writes {
		if sofar += w.text; strings.Contains(sofar, text) {
			return w.at
		}
	}
	t.Fatalf("the client did not get %q but %q", text, sofar)
	return 0
}

// node is an answer that a test writes as it goes.
type node struct {
	relay.Answer
	body *io.PipeWriter
	ctx  context.Context //nolint:containedctx // the upstream request's

	mu       sync.Mutex
	releases []bool
	released chan struct{}
}

// answer is a node's answer with a body of its own. Its request ends when it is
// cancelled, and so does its body.
func answer(ctx context.Context, contentType string) *node {
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

// send writes to the answer's body, and fails no test: the reader may have left.
func (n *node) send(text string) { _, _ = io.WriteString(n.body, text) }

// end ends the body.
func (n *node) end() { _ = n.body.Close() }

// of is an answer whose body is there at once.
func of(ctx context.Context, contentType, body string, end error) *node {
	n := answer(ctx, contentType)
	go func() {
		n.send(body)
		_ = n.body.CloseWithError(end)
	}()
	return n
}

// wantRelease checks that the session was released once, and how.
func (n *node) wantRelease(t *testing.T, drained bool) {
	t.Helper()
	<-n.released
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.releases) != 1 || n.releases[0] != drained {
		t.Errorf("released %v, want once with drained %t", n.releases, drained)
	}
}

func (n *node) wantHeld(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.releases) != 0 {
		t.Errorf("released %v though nothing has reached the client", n.releases)
	}
}
