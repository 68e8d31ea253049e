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

// watch runs the client's health checks until the test ends.
func watch(t *testing.T, c *proxyrouter.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func TestRun_NoticesANodeThatDiesUnseen(t *testing.T) {
	for _, state := range []string{"refused", "hanging"} {
		t.Run("dials are "+state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
				watch(t, c)
				time.Sleep(time.Hour)
				if err := c.Ready(); err != nil {
					t.Fatal(err)
				}
				n.state.Store(state)
				time.Sleep(time.Minute)
				wantErrors(t, c.Ready(), "unavailable")
				for range 600 { // it does not flap while the breaker tries again
					time.Sleep(time.Second)
					if err := c.Ready(); !errors.Is(err, session.ErrUnavailable) {
						t.Fatalf("ready although the node is down: %v", err)
					}
				}
				n.state.Store("up")
				time.Sleep(30 * time.Second)
				if err := c.Ready(); err != nil {
					t.Errorf("the node is back: %v", err)
				}
			})
		})
	}
}

func TestRun_AsksOnlyWhileNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		watch(t, c)
		synctest.Wait()
		before := n.dials.Load()
		for range 360 { // an hour
			time.Sleep(10 * time.Second)
			if err := readBids(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if busy := n.dials.Load() - before - 360; busy > 1 {
			t.Errorf("%d checks besides 360 reads", busy)
		}
		before = n.dials.Load()
		time.Sleep(time.Hour)
		if idle := n.dials.Load() - before; idle < 210 || idle > 270 {
			t.Errorf("%d checks in an idle hour, want about 240", idle)
		}
	})
}

func TestRun_ForgetsWhatAnotherVersionIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, log := newMemoryNode(t, proxyroutertest.Options{})
		watch(t, c)
		n.Inject(proxyroutertest.Fault{Name: "old-node"})
		req := openRequest()
		req.OmitProvider = proxyroutertest.ProviderAddress(0)
		if _, err := c.OpenSession(t.Context(), req); err != nil || !c.IgnoresOmitProvider() {
			t.Fatalf("not learnt: %v", err)
		}
		time.Sleep(time.Hour)
		if !c.IgnoresOmitProvider() {
			t.Error("forgotten although the node is the same")
		}
		n.ClearFaults() // it was updated
		time.Sleep(time.Minute)
		if c.IgnoresOmitProvider() {
			t.Error("not forgotten although the node was updated")
		}
		if !strings.Contains(log.String(), "ignores omitProvider") {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestRun_ADegradedNodeIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, log := newMemoryNode(t, proxyroutertest.Options{})
		watch(t, c)
		n.Inject(proxyroutertest.Fault{Name: "node-degraded"})
		time.Sleep(time.Hour)
		if err := c.Ready(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "health changed"); n != 1 {
			t.Errorf("logged %d times", n)
		}
	})
}

func TestRun_NoticesThatTheNodeAcceptsTheCredentialsAgain(t *testing.T) {
	for status, probeInterval := range map[int]time.Duration{401: time.Minute, 403: 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
			watch(t, c)
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: status, Text: "invalid username or password"})
			_, err := c.OpenSession(t.Context(), openRequest())
			wantErrors(t, err, "unauthorized", "not opened")
			wantErrors(t, c.Ready(), "unauthorized")
			time.Sleep(probeInterval) // nobody calls
			if err := c.Ready(); err != nil {
				t.Errorf("%d: %v", status, err)
			}
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpWallet, Status: 401})
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpBids, Status: 401})
			_ = readBids(t.Context(), c)
			time.Sleep(time.Hour)
			wantErrors(t, c.Ready(), "unauthorized") // as long as it refuses them
		})
	}
}
