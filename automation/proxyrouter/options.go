package proxyrouter

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/httpurl"
)

// Options configure a [Client]. Only URL is required.
type Options struct {
	// URL is the node's root: http or https, a host, optionally a port and a
	// path. Credentials, a query or a fragment in it are errors.
	URL string

	// Username and Password are sent as basic auth on every route but the health check.
	Username, Password string

	// Logger receives each call at debug level and the breaker's changes of
	// state; nil discards them.
	Logger *slog.Logger

	// HTTPClient's Transport sends the requests; its other fields are not used.
	// An *http.Transport is cloned and set to HTTP/1.1 without compression, and
	// transactions get a clone that dials for each request. Any other
	// RoundTripper is used as it is, so an open on a dead kept-alive connection
	// has an unknown outcome. Nil means a transport with 256 idle connections.
	HTTPClient *http.Client

	// OpenTimeout bounds opening a session, until the whole response is read; default 3 minutes.
	OpenTimeout time.Duration

	// BreakerPause is how long the circuit breaker stays open; default 5 s.
	BreakerPause time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	closeTimeout = time.Minute
	readTimeout  = 10 * time.Second // one read, or one page of a list

	// chatHeaderTimeout bounds the wait for a chat response's header. A response
	// that is not streamed arrives whole, so this includes the model's work.
	chatHeaderTimeout = 10 * time.Minute

	// breakerFailures is how many consecutive calls without a response open the breaker.
	breakerFailures = 3
)

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OpenTimeout == 0 {
		o.OpenTimeout = 3 * time.Minute
	}
	if o.BreakerPause == 0 {
		o.BreakerPause = 5 * time.Second
	}
	return o
}

// validate returns all errors at once. They repeat no text of the options: a URL
// may contain a password, and a password may be in the wrong field.
func (o Options) validate() error {
	var errs []error
	if o.OpenTimeout < 0 {
		errs = append(errs, fmt.Errorf("OpenTimeout: %v is negative", o.OpenTimeout))
	}
	if o.BreakerPause < 0 {
		errs = append(errs, fmt.Errorf("BreakerPause: %v is negative", o.BreakerPause))
	}
	if strings.Contains(o.Username, ":") {
		errs = append(errs, errors.New("a colon in Username, which basic auth does not allow"))
	}
	if _, err := httpurl.ParseBase(o.URL); err != nil {
		errs = append(errs, fmt.Errorf("URL: %w", err))
	}
	if len(errs) > 0 {
		return fmt.Errorf("proxyrouter: options: %w", errors.Join(errs...))
	}
	return nil
}

// transports returns the transport for reads and chat, and the one for
// transactions. The latter dials for every request: one that fails without a
// connection was certainly not sent, and one that had a connection is never
// sent a second time.
func (o Options) transports() (pooled, transactions http.RoundTripper) {
	base := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     50 * time.Second, // below the 60 s after which most proxies close
		MaxIdleConnsPerHost: 256,
	}
	if o.HTTPClient != nil && o.HTTPClient.Transport != nil {
		t, ok := o.HTTPClient.Transport.(*http.Transport)
		if !ok {
			return o.HTTPClient.Transport, o.HTTPClient.Transport
		}
		base = t.Clone()
	}
	// HTTP/1.1 only: it is known when its transport repeats a request.
	base.Protocols = new(http.Protocols)
	base.Protocols.SetHTTP1(true)
	base.ForceAttemptHTTP2 = false
	base.DisableCompression = true // a compressed stream would be buffered
	dialing := base.Clone()
	dialing.DisableKeepAlives = true
	dialing.ResponseHeaderTimeout = 0 // OpenTimeout bounds it
	base.ResponseHeaderTimeout = chatHeaderTimeout
	return base, dialing
}
