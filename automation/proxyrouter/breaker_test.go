package proxyrouter_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// network is a node behind dials that can be made to fail or hang, in memory, so
// that a test in a bubble passes hours at once.
type network struct {
	node  *proxyroutertest.Node
	state atomic.Value // "up", "refused" or "hanging"
	dials atomic.Int64
	conns chan net.Conn
	ends  chan struct{}
	http  http.Server
}

func newNetwork(t *testing.T, opts proxyroutertest.Options) (*network, *proxyrouter.Client, *bytes.Buffer) {
	t.Helper()
	n := &network{node: proxyroutertest.New(opts), conns: make(chan net.Conn), ends: make(chan struct{})}
	n.state.Store("up")
	n.http.Handler = n.node
	go func() { _ = n.http.Serve(n) }()
	var log bytes.Buffer
	c, err := proxyrouter.New(proxyrouter.Options{
		URL: "http://node", Username: username, Password: password,
		Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true},
		Logger:    slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(n.ends)
		_ = n.http.Close()
		c.CloseIdleConnections()
	})
	return n, c, &log
}

func (n *network) dial(context.Context, string, string) (net.Conn, error) {
	n.dials.Add(1)
	switch n.state.Load() {
	case "refused":
		return nil, errors.New("connection refused")
	case "hanging":
		<-n.ends
		return nil, errors.New("ended")
	}
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.ends:
		return nil, errors.New("ended")
	}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.ends:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { return nil }
func (n *network) Addr() net.Addr { return &net.TCPAddr{} }

func read(ctx context.Context, c *proxyrouter.Client) error {
	_, err := c.RatedBids(ctx, model)
	return err
}

func TestANodeThatIsAwayCostsLaterCallsNothing(t *testing.T) {
	for _, state := range []string{"refused", "hanging"} {
		t.Run(state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, log := newNetwork(t, proxyroutertest.Options{})
				if err := c.Ready(); err != nil {
					t.Errorf("before any call: %v", err)
				}
				n.state.Store(state)
				for range 3 {
					wraps(t, read(t.Context(), c), append([]string{"unavailable"}, map[string][]string{"hanging": {"deadline"}}[state]...)...)
				}
				begun, dials := time.Now(), n.dials.Load()
				_, err := c.OpenSession(t.Context(), hour())
				wraps(t, err, "unavailable")
				wraps(t, c.CloseSession(t.Context(), "0xabc"), "unavailable")
				wraps(t, c.Ready(), "unavailable")
				at := begun.Add(5 * time.Second).UTC().Format(time.RFC3339)
				for _, text := range []string{err.Error(), c.Ready().Error()} {
					if !strings.Contains(text, "asked again at "+at) {
						t.Errorf("%q does not say %s", text, at)
					}
				}
				if took := time.Since(begun); took != 0 || n.dials.Load() != dials {
					t.Errorf("it took %v and %d dials", took, n.dials.Load()-dials)
				}

				// After the pause one quick read tells that it is still away.
				time.Sleep(6 * time.Second)
				if err := c.Ready(); err != nil {
					t.Errorf("after the pause: %v", err)
				}
				begun = time.Now()
				_, err = c.OpenSession(t.Context(), hour())
				if took := time.Since(begun); took > 10*time.Second || n.dials.Load() != dials+1 {
					t.Errorf("the probe took %v and %d dials", took, n.dials.Load()-dials)
				}
				wraps(t, c.Ready(), "unavailable")
				if !errors.Is(err, session.ErrUnavailable) {
					t.Error(err)
				}

				// And then, that it is back.
				n.state.Store("up")
				time.Sleep(6 * time.Second)
				if _, err := c.OpenSession(t.Context(), hour()); err != nil {
					t.Errorf("back again: %v", err)
				}
				if err := c.Ready(); err != nil || n.node.Stats().Opens != 1 {
					t.Errorf("back again: %v, %d opens", err, n.node.Stats().Opens)
				}
				for _, want := range []string{"does not answer", "answers again", "open session"} {
					if !strings.Contains(log.String(), want) {
						t.Errorf("the log does not say %q:\n%s", want, log)
					}
				}
			})
		})
	}
}

func TestWhileTheNodeIsProbedOthersFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, _ := newNetwork(t, proxyroutertest.Options{})
		n.state.Store("refused")
		for range 3 {
			wraps(t, read(t.Context(), c), "unavailable")
		}
		n.state.Store("hanging")
		time.Sleep(6 * time.Second)
		go func() { _ = read(t.Context(), c) }()
		synctest.Wait()
		begun := time.Now()
		wraps(t, read(t.Context(), c), "unavailable")
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(11 * time.Second) // the probe ends
	})
}

func TestOnlySilenceOpensTheBreaker(t *testing.T) {
	for name, fail := range map[string]func(*network, *proxyrouter.Client){
		"answered errors": func(n *network, c *proxyrouter.Client) {
			n.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpBids, Times: 20})
			for range 20 {
				_ = read(context.Background(), c)
			}
		},
		"callers who leave": func(n *network, c *proxyrouter.Client) {
			n.state.Store("hanging")
			for range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = read(ctx, c)
				cancel()
			}
			n.state.Store("up")
		},
		"failures among successes": func(n *network, c *proxyrouter.Client) {
			for range 10 {
				n.state.Store("refused")
				_, _ = read(context.Background(), c), read(context.Background(), c)
				n.state.Store("up")
				_ = read(context.Background(), c)
			}
		},
		"chats that fail": func(n *network, c *proxyrouter.Client) {
			n.state.Store("refused")
			for range 20 {
				if resp, err := c.Forward(context.Background(), chatOn("0xabc")); err == nil {
					_ = resp.Body.Close()
				}
			}
			n.state.Store("up")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, _ := newNetwork(t, proxyroutertest.Options{})
				fail(n, c)
				if err := c.Ready(); err != nil {
					t.Error(err)
				}
				if err := read(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestReadyRemembersThatTheNodeRefusedUs(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	stranger := connect(t, node.URL, func(o *proxyrouter.Options) { o.Password = "another" })
	wraps(t, read(t.Context(), stranger), "unauthorized")
	wraps(t, stranger.Ready(), "unauthorized")

	nobody := connect(t, node.URL, func(o *proxyrouter.Options) { o.Username, o.Password = "", "" })
	err := read(t.Context(), nobody)
	wraps(t, err, "unauthorized")
	if !strings.Contains(err.Error(), "no basic auth provided") {
		t.Error(err)
	}

	// A 403 concerns one call, and others do not make it good.
	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: 403, Text: "method not allowed"})
	_, err = c.OpenSession(t.Context(), hour())
	wraps(t, err, "unauthorized", "not opened")
	if err := read(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	wraps(t, c.Ready(), "unauthorized")
	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: 503})
	if _, err = c.OpenSession(t.Context(), hour()); err == nil {
		t.Fatal("no error")
	}
	wraps(t, c.Ready(), "unauthorized")
	open(t, c)
	if err := c.Ready(); err != nil {
		t.Error(err)
	}
}
