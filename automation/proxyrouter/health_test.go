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

// runHealthChecks runs the client's health checks until the test ends.
func runHealthChecks(t *testing.T, c *proxyrouter.Client) {
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

func TestRun_NoticesANodeThatDiesWhileNobodyCalls(t *testing.T) {
	for _, state := range []string{"refused", "hanging"} {
		t.Run("dials are "+state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
				runHealthChecks(t, c)
				time.Sleep(time.Hour)
				if err := c.Ready(); err != nil {
					t.Fatalf("Ready after an hour without a call: %v", err)
				}
				n.state.Store(state)
				time.Sleep(time.Minute)
				wantErrors(t, c.Ready(), "unavailable")
				for range 600 { // Ready does not flap while the breaker tries again
					time.Sleep(time.Second)
					if err := c.Ready(); !errors.Is(err, session.ErrUnavailable) {
						t.Fatalf("Ready while the node is down: %v, want session.ErrUnavailable", err)
					}
				}
				n.state.Store("up")
				time.Sleep(30 * time.Second)
				if err := c.Ready(); err != nil {
					t.Errorf("Ready half a minute after the node is back: %v", err)
				}
			})
		})
	}
}

func TestRun_ChecksOnlyWhileNobodyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		runHealthChecks(t, c)
		synctest.Wait()
		before := n.dials.Load()
		for range 360 { // an hour
			time.Sleep(10 * time.Second)
			if err := readBids(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if busy := n.dials.Load() - before - 360; busy > 1 {
			t.Errorf("%d health checks next to 360 reads, want at most one", busy)
		}
		before = n.dials.Load()
		time.Sleep(time.Hour)
		if idle := n.dials.Load() - before; idle < 210 || idle > 270 {
			t.Errorf("%d health checks in an idle hour, want about 240", idle)
		}
	})
}

func TestRun_NoticesThatTheNodeWasUpdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, log := newMemoryNode(t, proxyroutertest.Options{})
		runHealthChecks(t, c)
		n.Inject(proxyroutertest.Fault{Name: "old-node"})
		req := openRequest()
		req.OmitProvider = proxyroutertest.ProviderAddress(0)
		if _, err := c.OpenSession(t.Context(), req); err != nil || !c.IgnoresOmitProvider() {
			t.Fatalf("after an open at an old node: %v, IgnoresOmitProvider is %t; want nil and true", err, c.IgnoresOmitProvider())
		}
		time.Sleep(time.Hour)
		if !c.IgnoresOmitProvider() {
			t.Error("IgnoresOmitProvider is false although the node has the same version")
		}
		n.ClearFaults() // the node is updated
		time.Sleep(time.Minute)
		if c.IgnoresOmitProvider() {
			t.Error("IgnoresOmitProvider is true although the node was updated")
		}
		if !strings.Contains(log.String(), "ignores omitProvider") {
			t.Errorf("the log does not say that the node ignores omitProvider:\n%s", log)
		}
	})
}

func TestRun_AcceptsADegradedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c, log := newMemoryNode(t, proxyroutertest.Options{})
		runHealthChecks(t, c)
		n.Inject(proxyroutertest.Fault{Name: "node-degraded"})
		time.Sleep(time.Hour)
		if err := c.Ready(); err != nil {
			t.Errorf("Ready with a degraded node: %v", err)
		}
		if n := strings.Count(log.String(), "health changed"); n != 1 {
			t.Errorf("the change of health was logged %d times, want once", n)
		}
	})
}

func TestRun_NoticesThatTheNodeAcceptsTheCredentialsAgain(t *testing.T) {
	for status, recovery := range map[int]time.Duration{401: time.Minute, 403: 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
			runHealthChecks(t, c)
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Status: status, Text: "invalid username or password"})
			_, err := c.OpenSession(t.Context(), openRequest())
			wantErrors(t, err, "unauthorized", "not opened")
			wantErrors(t, c.Ready(), "unauthorized")
			time.Sleep(recovery) // nobody calls
			if err := c.Ready(); err != nil {
				t.Errorf("Ready %v after a %d: %v", recovery, status, err)
			}
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpWallet, Status: 401})
			n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpBids, Status: 401})
			_ = readBids(t.Context(), c)
			time.Sleep(time.Hour)
			wantErrors(t, c.Ready(), "unauthorized") // the node still refuses them
		})
	}
}
