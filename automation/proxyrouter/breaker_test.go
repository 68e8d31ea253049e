package proxyrouter_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// readBids makes a read that passes through the breaker.
func readBids(ctx context.Context, c *proxyrouter.Client) error {
	_, err := c.RatedBids(ctx, model)
	return err
}

func TestBreaker_FailsFastWhileTheNodeIsDown(t *testing.T) {
	for _, state := range []string{"refused", "hanging"} {
		t.Run("dials are "+state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, log := newMemoryNode(t, proxyroutertest.Options{})
				if err := c.Ready(); err != nil {
					t.Errorf("Ready before any call: %v", err)
				}
				n.state.Store(state)
				want := []string{"unavailable"}
				if state == "hanging" {
					want = append(want, "deadline")
				}
				for range 3 {
					wantErrors(t, readBids(t.Context(), c), want...)
				}
				begun, dials := time.Now(), n.dials.Load()
				_, err := c.OpenSession(t.Context(), openRequest())
				wantErrors(t, err, "unavailable")
				wantErrors(t, c.CloseSession(t.Context(), sessionID), "unavailable")
				wantErrors(t, c.Ready(), "unavailable")
				at := begun.Add(5 * time.Second).UTC().Format(time.RFC3339)
				for _, text := range []string{err.Error(), c.Ready().Error()} {
					if !strings.Contains(text, "next try is at "+at) {
						t.Errorf("the error %q does not say that the next try is at %s", text, at)
					}
				}
				if took := time.Since(begun); took != 0 || n.dials.Load() != dials {
					t.Errorf("calls with the breaker open took %v and %d dials, want none", took, n.dials.Load()-dials)
				}

				// After the pause one quick read finds out that the node is still down.
				time.Sleep(6 * time.Second)
				if err := c.Ready(); err != nil {
					t.Errorf("Ready after the pause: %v", err)
				}
				begun = time.Now()
				_, err = c.OpenSession(t.Context(), openRequest())
				if took := time.Since(begun); took > 10*time.Second || n.dials.Load() != dials+1 {
					t.Errorf("the probe took %v and %d dials, want at most 10 s and one dial", took, n.dials.Load()-dials)
				}
				wantErrors(t, c.Ready(), "unavailable")
				if !errors.Is(err, session.ErrUnavailable) {
					t.Errorf("the open while the node is still down: %v, want session.ErrUnavailable", err)
				}

				// After the next pause another read finds out that the node is back.
				n.state.Store("up")
				time.Sleep(6 * time.Second)
				if _, err := c.OpenSession(t.Context(), openRequest()); err != nil {
					t.Errorf("the open while the node is back: %v", err)
				}
				if err := c.Ready(); err != nil || n.Stats().Opens != 1 {
					t.Errorf("the node is back: Ready is %v with %d opens, want nil and 1", err, n.Stats().Opens)
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

func TestBreaker_FailsFastWhileAProbeIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		n.state.Store("refused")
		for range 3 {
			wantErrors(t, readBids(t.Context(), c), "unavailable")
		}
		n.state.Store("hanging")
		time.Sleep(6 * time.Second)
		go func() { _ = readBids(t.Context(), c) }()
		synctest.Wait()
		begun := time.Now()
		wantErrors(t, readBids(t.Context(), c), "unavailable")
		if took := time.Since(begun); took != 0 {
			t.Errorf("a read during the probe took %v, want it to fail at once", took)
		}
		time.Sleep(11 * time.Second) // the probe ends
	})
}

func TestBreaker_StaysClosed(t *testing.T) {
	for name, fail := range map[string]func(*memoryNode, *proxyrouter.Client){
		"error responses": func(n *memoryNode, c *proxyrouter.Client) {
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpBids, Times: 20})
			for range 20 {
				_ = readBids(context.Background(), c)
			}
		},
		"callers that leave": func(n *memoryNode, c *proxyrouter.Client) {
			n.state.Store("hanging")
			for range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = readBids(ctx, c)
				cancel()
			}
			n.state.Store("up")
		},
		"failures among successes": func(n *memoryNode, c *proxyrouter.Client) {
			for range 10 {
				n.state.Store("refused")
				_, _ = readBids(context.Background(), c), readBids(context.Background(), c)
				n.state.Store("up")
				_ = readBids(context.Background(), c)
			}
		},
		"chats without an answer": func(n *memoryNode, c *proxyrouter.Client) {
			id := n.openSession()
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeDrop})
			for range 20 {
				forward(context.Background(), c, id)
			}
		},
		"chats whose clients leave": func(n *memoryNode, c *proxyrouter.Client) {
			n.state.Store("hanging")
			for range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				forward(ctx, c, sessionID)
				cancel()
			}
			n.state.Store("up")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
				fail(n, c)
				if err := c.Ready(); err != nil {
					t.Errorf("Ready: %v", err)
				}
				if err := readBids(t.Context(), c); err != nil {
					t.Errorf("a read afterwards: %v", err)
				}
			})
		})
	}
}

func TestReady_ReportsRefusedCredentials(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	wrongPassword := connect(t, node.URL, func(o *proxyrouter.Options) { o.Password = "another" })
	wantErrors(t, readBids(t.Context(), wrongPassword), "unauthorized")
	wantErrors(t, wrongPassword.Ready(), "unauthorized")

	anonymous := connect(t, node.URL, func(o *proxyrouter.Options) { o.Username, o.Password = "", "" })
	err := readBids(t.Context(), anonymous)
	wantErrors(t, err, "unauthorized")
	if !strings.Contains(err.Error(), "no basic auth provided") {
		t.Errorf("a read without credentials: %v, want the node's text", err)
	}

	// A 403 concerns one operation, so another's success does not clear it.
	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: 403, Text: "method not allowed"})
	_, err = c.OpenSession(t.Context(), openRequest())
	wantErrors(t, err, "unauthorized", "not opened")
	if err := readBids(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	wantErrors(t, c.Ready(), "unauthorized")
	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: 503})
	if _, err = c.OpenSession(t.Context(), openRequest()); err == nil {
		t.Fatal("an open that was answered with 503: no error")
	}
	wantErrors(t, c.Ready(), "unauthorized")
	open(t, c)
	if err := c.Ready(); err != nil {
		t.Errorf("Ready after an open that was permitted: %v", err)
	}
}

// forward sends a chat and ignores the answer.
func forward(ctx context.Context, c *proxyrouter.Client, id string) {
	if resp, err := c.Forward(ctx, chatOn(id)); err == nil {
		_ = resp.Body.Close()
	}
}

func TestBreaker_CountsTheDialsOfChats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		id := n.openSession()
		n.state.Store("refused")
		for range 3 {
			if err := c.Ready(); err != nil {
				t.Errorf("Ready before three failed chats: %v", err)
			}
			forward(t.Context(), c, id)
		}
		wantErrors(t, c.Ready(), "unavailable")
		dials := n.dials.Load()
		forward(t.Context(), c, id)
		if n.dials.Load() == dials {
			t.Error("the open breaker stopped a chat, although its session is paid")
		}
		n.state.Store("up")
		time.Sleep(6 * time.Second)
		forward(t.Context(), c, id) // a chat with an answer closes the breaker
		if err := c.Ready(); err != nil {
			t.Errorf("Ready after a chat with an answer: %v", err)
		}
		if err := readBids(t.Context(), c); err != nil {
			t.Errorf("a read after a chat with an answer: %v", err)
		}
	})
}
