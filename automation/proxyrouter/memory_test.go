package proxyrouter_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// memoryNode is a simulated node behind in-memory connections, for tests that
// wait in a synctest bubble.
type memoryNode struct {
	*proxyroutertest.Node
	state atomic.Value // what a dial does: "up", "refused" or "hanging"
	dials atomic.Int64
	conns chan net.Conn
	done  chan struct{}
	http  http.Server
}

// newMemoryNode returns a node, a client of it, and the client's log.
func newMemoryNode(t *testing.T, opts proxyroutertest.Options, change ...func(*proxyrouter.Options)) (*memoryNode, *proxyrouter.Client, *bytes.Buffer) {
	t.Helper()
	opts.Username, opts.Password = username, password
	n := &memoryNode{Node: proxyroutertest.New(opts), conns: make(chan net.Conn), done: make(chan struct{})}
	n.state.Store("up")
	n.http.Handler = n.Node
	go func() { _ = n.http.Serve(n) }()
	var log bytes.Buffer
	clientOpts := proxyrouter.Options{
		URL: "http://node", Username: username, Password: password,
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true}},
		Logger:     slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&clientOpts)
	}
	c, err := proxyrouter.New(clientOpts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(n.done)
		_ = n.http.Close()
		c.CloseIdleConnections()
	})
	return n, c, &log
}

func (n *memoryNode) dial(context.Context, string, string) (net.Conn, error) {
	n.dials.Add(1)
	switch n.state.Load() {
	case "refused":
		return nil, errors.New("connection refused")
	case "hanging":
		<-n.done
		return nil, errors.New("the test has ended")
	}
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.done:
		return nil, errors.New("the test has ended")
	}
}

// Accept, Close and Addr make it a net.Listener.
func (n *memoryNode) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *memoryNode) Close() error   { return nil }
func (n *memoryNode) Addr() net.Addr { return &net.TCPAddr{} }

// openSession opens a session by a call of the handler, without the client.
func (n *memoryNode) openSession() string {
	r := httptest.NewRequest(http.MethodPost, "/blockchain/models/"+model+"/session", strings.NewReader(`{"sessionDuration":3600}`))
	r.SetBasicAuth(username, password)
	n.ServeHTTP(httptest.NewRecorder(), r)
	all := n.Stats().Sessions
	return all[len(all)-1].ID
}
