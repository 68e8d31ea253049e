package proxyrouter_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestOpenSession_OutcomeIsUnknownWithoutAResponse(t *testing.T) {
	for name, fault := range map[string]proxyroutertest.Fault{
		"the node answers 500 after the open": {After: true, Status: 500, Text: "context deadline exceeded"},
		"the connection breaks":               {After: true, Mode: proxyroutertest.ModeDrop},
		"the response is cut":                 {Mode: proxyroutertest.ModeCut},
		"the node never answers":              {After: true, Mode: proxyroutertest.ModeHang},
		"the node answers too late":           {After: true, Status: 200, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node, c, _ := newMemoryNode(t, proxyroutertest.Options{})
				fault.Op = proxyroutertest.OpOpen
				node.Inject(fault)
				_, err := c.OpenSession(t.Context(), openRequest())
				if fault.Mode == proxyroutertest.ModeHang || fault.Delay > 0 {
					wantErrors(t, err, "deadline")
				} else {
					wantErrors(t, err)
				}
				list, err := c.WalletSessions(t.Context(), time.Time{})
				if err != nil || len(list) != 1 || node.Stats().Opens != 1 {
					t.Errorf("the wallet's sessions are %v, %v; want the one that was paid", list, err)
				}
				time.Sleep(fault.Delay) // until the node's handler ends
			})
		})
	}
}

func TestTransactions_AreSentOnce(t *testing.T) {
	for name, onPost := range map[string]func(net.Conn){
		"the node closes the connection":               func(c net.Conn) { _ = c.Close() },
		"the node resets the connection":               func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"the node closes the connection in the header": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 20") },
		"the node closes the connection in the body": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{\"err")
		},
	} {
		t.Run(name, func(t *testing.T) {
			node := newRawNode(t, onPost)
			c := connect(t, node.url)
			// This leaves a connection in the pool, where a transport may repeat requests.
			if _, err := c.WalletSessions(t.Context(), time.Time{}); err != nil {
				t.Fatal(err)
			}
			_, err := c.OpenSession(t.Context(), openRequest())
			wantErrors(t, err)
			if err := c.CloseSession(t.Context(), sessionID); err == nil {
				t.Error("close: no error")
			}
			if n := node.posts.Load(); n != 2 {
				t.Errorf("%d requests for an open and a close, want 2", n)
			}
		})
	}
}

func TestOpenSession_IsUnavailableWithoutAConnection(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	_ = l.Close()
	failing := func(err error) func(*proxyrouter.Options) {
		return func(o *proxyrouter.Options) {
			o.HTTPClient = &http.Client{Transport: &http.Transport{
				DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err },
			}}
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	node := newRawNode(t, func(net.Conn) {})

	for name, test := range map[string]struct {
		ctx    context.Context
		client *proxyrouter.Client
		want   []string
	}{
		"nothing listens":           {t.Context(), connect(t, closed), []string{"unavailable"}},
		"the name does not resolve": {t.Context(), connect(t, "http://node.invalid", failing(&net.DNSError{Err: "no such host", Name: "node.invalid"})), []string{"unavailable"}},
		"TLS fails":                 {t.Context(), connect(t, strings.Replace(node.url, "http:", "https:", 1)), []string{"unavailable"}},
		"the caller has left":       {cancelled, connect(t, node.url), []string{"unavailable", "cancelled"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.client.OpenSession(test.ctx, openRequest())
			wantErrors(t, err, test.want...)
			if !strings.HasPrefix(err.Error(), "proxyrouter: open session: no response: ") {
				t.Errorf("error = %q, want one that says that there was no response", err)
			}
		})
	}
	if n := node.posts.Load(); n != 0 {
		t.Errorf("%d requests arrived, want none", n)
	}
}

func TestOpenSession_IsUnavailableIfTheDialHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		node.state.Store("hanging")
		_, err := c.OpenSession(t.Context(), openRequest())
		wantErrors(t, err, "unavailable", "deadline")
	})
}

func TestOpenSession_OutcomeIsUnknownToACallerThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, c, _ := newMemoryNode(t, proxyroutertest.Options{OpenLatency: time.Minute})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.OpenSession(ctx, openRequest())
		wantErrors(t, err, "deadline")
		time.Sleep(time.Minute) // the node completes the open
		if n := node.Stats().Opens; n != 1 {
			t.Errorf("%d sessions opened, want one", n)
		}
	})
}
