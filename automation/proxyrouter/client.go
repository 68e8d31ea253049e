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

// maxResponse bounds a response that is not forwarded, in bytes. A page of 255
// sessions takes about 200 KB.
const maxResponse = 8 << 20

// Client talks to one node for one wallet. It is safe for concurrent use.
type Client struct {
	opts         Options
	base         string
	pooled       *http.Client // for reads and chat
	transactions *http.Client
	redact       redactor

	breaker     *gobreaker.CircuitBreaker[response]
	retryAt     atomic.Pointer[time.Time]   // when the open breaker lets the next call through
	authFailure atomic.Pointer[authFailure] // nil while the node accepts the credentials

	lastContact   atomic.Int64           // when the node last answered, in unix nanoseconds
	running       atomic.Bool            // whether Run is running
	degraded      atomic.Bool            // whether the last health check reported the node as degraded
	omitIgnoredBy atomic.Pointer[string] // the version that ignored omitProvider

	walletMu sync.Mutex
	wallet   wallet
}

var _ session.Provider = (*Client)(nil)

// New validates the options and returns a client. It does no I/O.
func New(opts Options) (*Client, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	pooled, transactions := opts.transports()
	c := &Client{
		opts:         opts,
		base:         strings.TrimRight(opts.URL, "/"),
		pooled:       &http.Client{Transport: pooled, CheckRedirect: keepRedirect},
		transactions: &http.Client{Transport: transactions, CheckRedirect: keepRedirect},
		redact:       newRedactor(opts.Username, opts.Password, hostsOf(opts.URL)...),
	}
	c.breaker = c.newBreaker()
	return c, nil
}

// hostsOf returns the forms of a URL's host that are to be redacted from texts. It
// leaves out a name of one word, such as node, because ordinary texts contain it.
func hostsOf(raw string) []string {
	u, err := url.Parse(raw)
	if err != nil {
		return nil
	}
	var hosts []string
	if u.Port() != "" {
		hosts = append(hosts, u.Host)
	}
	if strings.ContainsAny(u.Hostname(), ".:") {
		hosts = append(hosts, u.Hostname())
	}
	return hosts
}

// keepRedirect makes a client return a redirect instead of following it. Following
// would send a paid request, or the credentials, to a host that nobody configured.
func keepRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// CloseIdleConnections closes the pooled connections that are not in use.
func (c *Client) CloseIdleConnections() { c.pooled.CloseIdleConnections() }

// call is one request that concerns the chain.
type call struct {
	op      string // its name in errors and logs
	method  string
	path    string // escaped
	query   url.Values
	body    string
	timeout time.Duration
	client  *http.Client
	public  bool // the route needs no credentials, so none are sent
}

func (c *Client) readCall(op, path string) call {
	return call{op: op, method: http.MethodGet, path: path, timeout: readTimeout, client: c.pooled}
}

func (c *Client) transactionCall(op, path, body string, timeout time.Duration) call {
	return call{op: op, method: http.MethodPost, path: path, body: body, timeout: timeout, client: c.transactions}
}

// response is the node's response to a call. Status is 0 without one.
type response struct {
	status int
	body   []byte
}

// do sends the call, once, through the breaker. A status other than 2xx and a
// missing or incomplete response are a *nodeError. The returned response has a
// status if a status line arrived, also with an error.
func (c *Client) do(ctx context.Context, k call) (response, error) {
	start := c.opts.Now()
	resp, err := c.throughBreaker(ctx, k)
	if err == nil && resp.status/100 != 2 {
		err = c.responseError(k.op, resp)
	}
	if resp.status != 0 {
		c.noteContact()
	}
	c.noteAuth(k.op, resp.status)
	c.opts.Logger.DebugContext(ctx, "node call", "op", k.op, "status", resp.status,
		"duration", c.opts.Now().Sub(start), "error", err)
	return resp, err
}

// send performs one exchange. Its errors are *exchangeError.
func (c *Client) send(ctx context.Context, k call) (response, error) {
	callCtx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()

	traced, connected := traceConnection(callCtx)
	failed := func(err error) error {
		return &exchangeError{cause: err, connected: connected.Load(), byCaller: ctx.Err() != nil}
	}

	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(traced, k.method, target, nil)
	if err != nil {
		return response{}, failed(err)
	}
	if k.body != "" {
		req.Body = io.NopCloser(strings.NewReader(k.body))
		req.ContentLength = int64(len(k.body))
		req.Header.Set("Content-Type", "application/json")
		// Without GetBody the transport cannot send the body a second time.
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if !k.public {
		c.authorize(req)
	}

	httpResp, err := k.client.Do(req)
	if err != nil {
		return response{}, failed(unwrapURL(err))
	}
	defer httpResp.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(io.LimitReader(httpResp.Body, maxResponse+1))
	resp := response{status: httpResp.StatusCode, body: bytes.TrimSpace(body)}
	switch {
	case err != nil:
		return resp, failed(err)
	case len(body) > maxResponse:
		return resp, failed(fmt.Errorf("the response is larger than %d bytes", maxResponse))
	}
	return resp, nil
}

// traceConnection returns a context for one request, and whether that request has
// a connection and so may have been sent. GetConn resets it: a transport asks for
// another connection to repeat a request, and repeats only a read or a request of
// which it has written nothing. The transport for transactions repeats none.
func traceConnection(ctx context.Context) (context.Context, *atomic.Bool) {
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

// unwrapURL returns the cause of a *url.Error. Our own errors name the operation
// already, and the URL may be private.
func unwrapURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// pathID returns the canonical form of a session's or a model's id, which is
// safe in a path: both are 32 bytes.
func pathID(id string) (string, error) {
	canonical, err := session.ParseID(id)
	if err != nil {
		return "", errors.New("an id that is not 32 bytes in hex digits")
	}
	return string(canonical), nil
}
