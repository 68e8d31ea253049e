package proxyrouter_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestAnOpenThatSucceedsUnseenIsUnknownAndOnTheChain(t *testing.T) {
	for name, fault := range map[string]proxyroutertest.Fault{
		"it answers 500":          {After: true, Status: 500, Text: "context deadline exceeded"},
		"the connection breaks":   {After: true, Mode: proxyroutertest.Drop},
		"the answer is cut":       {Mode: proxyroutertest.Cut},
		"nothing is heard of it":  {After: true, Mode: proxyroutertest.Hang},
		"it takes longer than we": {After: true, Status: 200, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			node, c := start(t, proxyroutertest.Options{}, func(o *proxyrouter.Options) { o.OpenTimeout = 200 * time.Millisecond })
			fault.Op = proxyroutertest.OpOpen
			node.Inject(fault)
			_, err := c.OpenSession(t.Context(), hour())
			if fault.Mode == proxyroutertest.Hang || fault.Delay > 0 {
				wraps(t, err, "deadline")
			} else {
				wraps(t, err)
			}
			list, err := c.WalletSessions(t.Context(), time.Time{})
			if err != nil || len(list) != 1 || node.Stats().Opens != 1 {
				t.Errorf("on the chain: %v, %v", list, err)
			}
		})
	}
}

func TestATransactionIsNeverSentTwice(t *testing.T) {
	for name, onPost := range map[string]func(net.Conn){
		"the node hangs up":               func(c net.Conn) { _ = c.Close() },
		"the node resets the connection":  func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"the node hangs up in the header": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 20") },
		"the node hangs up in the body": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{\"err")
		},
	} {
		t.Run(name, func(t *testing.T) {
			node := newRawNode(t, onPost)
			c := connect(t, node.url)
			// Leaves a connection in the pool, the kind on which requests are repeated.
			if _, err := c.WalletSessions(t.Context(), time.Time{}); err != nil {
				t.Fatal(err)
			}
			_, err := c.OpenSession(t.Context(), hour())
			wraps(t, err)
			if err := c.CloseSession(t.Context(), "0xabc"); err == nil {
				t.Error("close: no error")
			}
			if n := node.posts.Load(); n != 2 {
				t.Errorf("%d requests for an open and a close", n)
			}
		})
	}
}

func TestAnOpenThatNeverLeftIsUnavailable(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	_ = l.Close()
	failing := func(err error) func(*proxyrouter.Options) {
		return func(o *proxyrouter.Options) {
			o.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	plain := newRawNode(t, func(net.Conn) {})

	for name, test := range map[string]struct {
		ctx    context.Context
		client *proxyrouter.Client
		want   []string
	}{
		"nobody listens":          {t.Context(), connect(t, nobody), []string{"unavailable"}},
		"the name is unknown":     {t.Context(), connect(t, "http://node.invalid", failing(&net.DNSError{Err: "no such host", Name: "node.invalid"})), []string{"unavailable"}},
		"TLS fails":               {t.Context(), connect(t, strings.Replace(plain.url, "http:", "https:", 1)), []string{"unavailable"}},
		"the caller left before":  {cancelled, connect(t, plain.url), []string{"unavailable", "cancelled"}},
		"the dial takes too long": {t.Context(), connect(t, "http://node", stuck(t), quick), []string{"unavailable", "deadline"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.client.OpenSession(test.ctx, hour())
			wraps(t, err, test.want...)
			e, ok := errors.AsType[*proxyrouter.NodeError](err)
			if !ok || e.Status != 0 {
				t.Errorf("error = %#v", err)
			}
		})
	}
	if n := plain.posts.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// stuck dials until the test ends: a transport goes on dialing when its caller has left.
func stuck(t *testing.T) func(o *proxyrouter.Options) {
	return func(o *proxyrouter.Options) {
		o.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			<-t.Context().Done()
			return nil, t.Context().Err()
		}}
	}
}

func quick(o *proxyrouter.Options) {
	o.OpenTimeout, o.CloseTimeout, o.ReadTimeout = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
}

func TestACallerWhoLeavesMidwayDoesNotKnow(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{OpenLatency: 50 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.OpenSession(ctx, hour())
	wraps(t, err, "deadline")
	node.Close() // returns when the open has ended
	if n := node.Stats().Opens; n != 1 {
		t.Errorf("%d sessions opened", n)
	}
}
