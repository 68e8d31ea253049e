package proxyrouter_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// These must never occur in an error or a log line.
const (
	username = "canary-user"
	password = "canary:pa55/w%rd"
)

var model = proxyroutertest.ModelID("llama")

func openRequest() session.OpenRequest {
	return session.OpenRequest{ModelID: model, Duration: time.Hour}
}

// connect returns a client of the node at url. Its connections are closed when the
// test ends.
func connect(t *testing.T, url string, change ...func(*proxyrouter.Options)) *proxyrouter.Client {
	t.Helper()
	opts := proxyrouter.Options{URL: url, Username: username, Password: password}
	for _, f := range change {
		f(&opts)
	}
	c, err := proxyrouter.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// start returns a simulated node and a client of it.
func start(t *testing.T, opts proxyroutertest.Options, change ...func(*proxyrouter.Options)) (*proxyroutertest.Server, *proxyrouter.Client) {
	t.Helper()
	opts.Username, opts.Password = username, password
	node := proxyroutertest.NewServer(t, opts)
	return node, connect(t, node.URL, change...)
}

func open(t *testing.T, c *proxyrouter.Client) string {
	t.Helper()
	id, err := c.OpenSession(t.Context(), openRequest())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

var shortID = regexp.MustCompile(`\b0[xX]([0-9a-fA-F]{1,40})\b`)

// pad extends the ids in a text to 32 bytes, so that tests can write 0xabc.
func pad(text string) string {
	return shortID.ReplaceAllStringFunc(text, func(id string) string {
		return id[:2] + strings.Repeat("0", 66-len(id)) + id[2:]
	})
}

// sessionID is an id that no session of a simulated node has.
var sessionID = pad("0xabc")

// answering returns a client of a node that answers every request with status and body.
func answering(t *testing.T, status int, body string) *proxyrouter.Client {
	t.Helper()
	return serving(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, pad(body))
	})
}

// serving returns a client of a node whose handler is h.
func serving(t *testing.T, h http.HandlerFunc, change ...func(*proxyrouter.Options)) *proxyrouter.Client {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		done.Wait()
	})
	return connect(t, "http://"+l.Addr().String(), change...)
}

// rawNode speaks HTTP by hand: it answers each GET and keeps the connection
// alive, and passes the connection of each POST to onPost. It counts the POSTs.
type rawNode struct {
	url   string
	posts atomic.Int64
}

func newRawNode(t *testing.T, onPost func(net.Conn)) *rawNode {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &rawNode{url: "http://" + l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				defer conn.Close() //nolint:errcheck // all that was to be written is written
				n.serve(conn, onPost)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		done.Wait()
	})
	return n
}

func (n *rawNode) serve(conn net.Conn, onPost func(net.Conn)) {
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = bufio.NewReader(req.Body).Discard(int(req.ContentLength))
		if req.Method == http.MethodPost {
			n.posts.Add(1)
			onPost(conn)
			return
		}
		body := pad(`{"address":"0xabc","sessions":[],"session":{"Id":"0xabc","OpenedAt":1,"EndsAt":2}}`)
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}
