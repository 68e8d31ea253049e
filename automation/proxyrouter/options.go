package proxyrouter

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Options says which node to talk to, and how patiently. Only URL is required.
// Deadlines bound one call from its start to the last byte of its answer.
type Options struct {
	// URL is the node's root: http or https, a host, perhaps a path. It carries
	// no user, query or fragment.
	URL string

	// Username and Password are sent as basic auth on every route but the health check.
	Username, Password string

	// Logger hears of each call at debug level and of the breaker's moves; nil discards.
	Logger *slog.Logger

	// Transport is cloned: set proxies, TLS and dialers there. Only HTTP/1.1 is
	// spoken, without compression. Nil means a pool sized for a gateway.
	Transport *http.Transport

	OpenTimeout  time.Duration // opening a session; default 3 minutes
	CloseTimeout time.Duration // closing a session; default 60 s
	ReadTimeout  time.Duration // one read, one page of a list; default 10 s

	// ChatHeaderTimeout bounds the wait for the first line of a forwarded
	// request's answer. An answer that is not streamed comes whole, so this is
	// long: default 10 minutes. Nothing bounds the answer's body.
	ChatHeaderTimeout time.Duration

	// BreakerFailures is how many calls in a row must go without an answer before
	// the breaker opens; default 3. BreakerPause is how long it stays open; default 5 s.
	BreakerFailures int
	BreakerPause    time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BreakerFailures == 0 {
		o.BreakerFailures = 3
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.OpenTimeout, 3 * time.Minute},
		{&o.CloseTimeout, time.Minute},
		{&o.ReadTimeout, 10 * time.Second},
		{&o.ChatHeaderTimeout, 10 * time.Minute},
		{&o.BreakerPause, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return o
}

// validate complains about everything at once and repeats no value: a URL may
// hold a password, and a password in the wrong variable is still one.
func (o Options) validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"OpenTimeout", o.OpenTimeout},
		{"CloseTimeout", o.CloseTimeout},
		{"ReadTimeout", o.ReadTimeout},
		{"ChatHeaderTimeout", o.ChatHeaderTimeout},
		{"BreakerPause", o.BreakerPause},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is negative", d.name, d.value))
		}
	}
	if o.BreakerFailures < 0 {
		errs = append(errs, fmt.Errorf("BreakerFailures: %d is negative", o.BreakerFailures))
	}
	if strings.Contains(o.Username, ":") {
		errs = append(errs, errors.New("a Username with a colon: basic auth allows none"))
	}
	if err := validateURL(o.URL); err != nil {
		errs = append(errs, fmt.Errorf("URL: %w", err))
	}
	if len(errs) > 0 {
		return fmt.Errorf("proxyrouter: options: %w", errors.Join(errs...))
	}
	return nil
}

func validateURL(raw string) error {
	const want = "expected something like http://127.0.0.1:8082"
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("empty; " + want)
	case err != nil:
		return errors.New("cannot be parsed; " + want)
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("the scheme is neither http nor https; " + want)
	case u.User != nil:
		return errors.New("it carries credentials; set Username and Password instead")
	case u.Hostname() == "":
		return errors.New("it names no host; " + want)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("it has a query or a fragment; " + want)
	}
	return nil
}

// pool returns the transport for reads and chat. HTTP/1.1 alone, because only
// there the rules about what is sent twice are known to us.
func (o Options) pool() *http.Transport {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     50 * time.Second, // under the 60 s after which most proxies hang up
	}
	if o.Transport != nil {
		t = o.Transport.Clone()
	}
	if t.MaxIdleConnsPerHost == 0 {
		t.MaxIdleConnsPerHost = 256
	}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.ForceAttemptHTTP2 = false
	t.DisableCompression = true // streams pass as they come
	t.ResponseHeaderTimeout = o.ChatHeaderTimeout
	return t
}

// fresh returns a transport that dials for every request, so that a request
// which fails without a connection was certainly never sent, and one with a
// connection is never sent again.
func fresh(pool *http.Transport) *http.Transport {
	t := pool.Clone()
	t.DisableKeepAlives = true
	t.ResponseHeaderTimeout = 0 // the operation's deadline rules
	return t
}
