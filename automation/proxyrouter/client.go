package proxyrouter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// maxAnswer bounds what is read of an answer that is not forwarded. A page of
// 255 sessions takes about 200 KB.
const maxAnswer = 8 << 20

// Client talks to one node for one wallet. It is safe for concurrent use.
type Client struct {
	opts   Options
	base   string
	pooled *http.Client // reads and chat
	fresh  *http.Client // transactions
	redact redactor

	breaker *gobreaker.CircuitBreaker[answer]
	retryAt atomic.Pointer[time.Time] // when an open breaker lets the next call try
	refusal atomic.Pointer[refusal]   // of our credentials, until the node takes them

	walletMu sync.Mutex
	wallet   wallet
}

var _ session.Provider = (*Client)(nil)

// New checks the options and returns a client. It asks the node nothing.
func New(opts Options) (*Client, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	pool := opts.pool()
	c := &Client{
		opts:   opts,
		base:   strings.TrimRight(opts.URL, "/"),
		pooled: &http.Client{Transport: pool, CheckRedirect: refuseRedirect},
		fresh:  &http.Client{Transport: fresh(pool), CheckRedirect: refuseRedirect},
		redact: newRedactor(opts.Username, opts.Password),
	}
	c.breaker = c.newBreaker()
	return c, nil
}

func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// CloseIdleConnections closes the pooled connections that nobody uses.
func (c *Client) CloseIdleConnections() { c.pooled.CloseIdleConnections() }

// call is one request that concerns the chain.
type call struct {
	op      string // as errors and logs name it
	method  string
	path    string // escaped
	query   url.Values
	body    string
	timeout time.Duration
	client  *http.Client
	public  bool // without credentials
}

func (c *Client) read(op, path string) call {
	return call{op: op, method: http.MethodGet, path: path, timeout: c.opts.ReadTimeout, client: c.pooled}
}

func (c *Client) transaction(op, path, body string, timeout time.Duration) call {
	return call{op: op, method: http.MethodPost, path: path, body: body, timeout: timeout, client: c.fresh}
}

// answer is what came back. Status is 0 when nothing did.
type answer struct {
	status int
	body   []byte
}

// do sends the call, once, through the breaker. A status beyond 2xx is a
// *NodeError; so is a lost answer, and then the status tells how far it came.
func (c *Client) do(ctx context.Context, k call) (answer, error) {
	start := c.opts.Now()
	a, err := c.guarded(ctx, k)
	if err == nil && a.status/100 != 2 {
		err = c.answered(k.op, a)
	}
	c.remember(k.op, a.status)
	c.opts.Logger.DebugContext(ctx, "node call", "op", k.op, "status", a.status,
		"duration", c.opts.Now().Sub(start), "error", err)
	return a, err
}

// send performs one exchange. Its errors are *lostError.
func (c *Client) send(ctx context.Context, k call) (answer, error) {
	callCtx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()

	traced, connected := trace(callCtx)
	lost := func(err error) error {
		return &lostError{cause: err, connected: connected.Load(), byCaller: ctx.Err() != nil}
	}

	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(traced, k.method, target, nil)
	if err != nil {
		return answer{}, lost(err)
	}
	if k.body != "" {
		req.Body = io.NopCloser(strings.NewReader(k.body))
		req.ContentLength = int64(len(k.body))
		req.Header.Set("Content-Type", "application/json")
		// No GetBody: a body that cannot be rewound cannot be sent twice.
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if !k.public {
		c.authorize(req)
	}

	resp, err := k.client.Do(req)
	if err != nil {
		return answer{}, lost(bare(err))
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is left to lose
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	a := answer{status: resp.StatusCode, body: bytes.TrimSpace(body)}
	switch {
	case err != nil:
		return a, lost(err)
	case len(body) > maxAnswer:
		return a, lost(fmt.Errorf("the answer is larger than %d bytes", maxAnswer))
	}
	return a, nil
}

// trace watches whether a request has a connection, so that it may be sent. A
// transport that asks for another one repeats a request of which nothing was
// written, or a read; on the transport for transactions that never happens.
func trace(ctx context.Context) (context.Context, *atomic.Bool) {
	var connected atomic.Bool
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { connected.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}), &connected
}

const userAgent = "gateway-automation"

func (c *Client) authorize(req *http.Request) {
	if c.opts.Username != "" || c.opts.Password != "" {
		req.SetBasicAuth(c.opts.Username, c.opts.Password)
	}
}

// bare takes the *url.Error off: the operation is named already, and the URL tells nothing more.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// segment checks an id that becomes part of a path.
func segment(id string) error {
	if len(id) == 0 || len(id) > 128 {
		return fmt.Errorf("an id of %d characters", len(id))
	}
	for _, r := range id {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '-', r == '_':
		default:
			return errors.New("an id with other characters than letters and digits")
		}
	}
	return nil
}
