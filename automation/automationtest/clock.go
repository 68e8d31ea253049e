package automationtest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// clock is how far the sessions' time is ahead. The node's clock is ahead with
// it. Nobody can move a database's clock, so the times that it has written go
// back instead, and so do the node's on their way to the module.
type clock struct{ ahead atomic.Int64 }

func (c *clock) passed() time.Duration { return time.Duration(c.ahead.Load()) }

//nolint:forbidigo // the real clock is what it is ahead of
func (c *clock) now() time.Time { return time.Now().Add(c.passed()) }

// node is the client of a node whose clock is ahead of the module's.
type node struct {
	*proxyrouter.Client
	clock *clock
}

func (n node) GetSession(ctx context.Context, id string) (session.ChainSession, error) {
	c, err := n.Client.GetSession(ctx, id)
	return n.clock.back(c), err
}

func (n node) WalletSessions(ctx context.Context, since time.Time) ([]session.ChainSession, error) {
	list, err := n.Client.WalletSessions(ctx, since.Add(n.clock.passed()))
	for i := range list {
		list[i] = n.clock.back(list[i])
	}
	return list, err
}

// back is the session as the module's clock has it.
func (c *clock) back(s session.ChainSession) session.ChainSession {
	for _, t := range []*time.Time{&s.OpenedAt, &s.EndsAt, &s.ClosedAt} {
		if !t.IsZero() {
			*t = t.Add(-c.passed())
		}
	}
	return s
}

// Advance lets so much time pass for all sessions: those that are past their
// end by then serve nobody any more and are closed soon, renewals come due, and
// budgets are there again. Nothing else gets older, and claims in use last.
// Call it while no session is being opened. Where it fails, the test does.
func (g *Gateway) Advance(d time.Duration) {
	g.tb.Helper()
	const moved = `UPDATE automation_sessions SET created_at = %[1]s, called_at = %[2]s, opened_at = %[3]s, ends_at = %[4]s,
		next_at = %[5]s, last_used_at = %[6]s, unknown_at = %[7]s, closed_at = %[8]s, charged_at = %[9]s`
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var columns []any
	for _, c := range []string{"created_at", "called_at", "opened_at", "ends_at", "next_at", "last_used_at", "unknown_at", "closed_at", "charged_at"} {
		columns = append(columns, fmt.Sprintf(`strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s, '%+.3f seconds')`, c, -d.Seconds()))
	}
	if _, err := g.DB.ExecContext(ctx, fmt.Sprintf(moved, columns...)); err != nil {
		g.tb.Fatal(fmt.Errorf("automationtest: advance: %w", err))
	}
	g.clock.ahead.Add(int64(d))
}
