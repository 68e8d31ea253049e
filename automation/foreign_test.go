package automation_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// While it is unknown whether an open succeeded, the module looks for its session in
// the wallet. It must not adopt one that the host opened, even if everything matches.
func TestOptions_ForeignSessionsAreNotAdopted(t *testing.T) {
	t.Parallel()
	asked := make(chan session.ChainSession, 100)
	h := newHarness(t, setup{skipRun: true, options: func(o *automation.Options) {
		o.Foreign = func(_ context.Context, s session.ChainSession) (bool, error) { asked <- s; return true, nil }
	}, config: func(c *automation.Config) { c.ReconcileTimeout = time.Second }})
	h.start()
	h.until("the module has started", func() bool { return h.Started(t.Context()) })
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, After: true, Text: "the reply is lost"})
	a := h.chat("alice")
	if a.status != http.StatusServiceUnavailable {
		t.Fatalf("status %d, body %s; want 503", a.status, a.body)
	}
	h.until("the module has called Foreign", func() bool { return len(asked) > 0 })
	if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open'`); n != 0 {
		t.Errorf("%d sessions were adopted, want none: Foreign reports them as the host's own", n)
	}
}
