package automationtest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// clock is the simulated node's clock: the real time plus an offset that Advance
// increases. The module keeps the real time, because a database's clock cannot
// be moved. So Advance moves the stored times back instead, and a node client
// moves the chain's times back by the offset.
type clock struct{ nanoseconds atomic.Int64 }

func (c *clock) offset() time.Duration { return time.Duration(c.nanoseconds.Load()) }

//nolint:forbidigo // the simulated time is an offset from the real clock
func (c *clock) now() time.Time { return time.Now().Add(c.offset()) }

// node is a client that converts the node's times into the module's.
type node struct {
	*proxyrouter.Client
	clock *clock
}

func (n node) GetSession(ctx context.Context, id string) (session.ChainSession, error) {
	c, err := n.Client.GetSession(ctx, id)
	return n.clock.toModule(c), err
}

func (n node) WalletSessions(ctx context.Context, since time.Time) ([]session.ChainSession, error) {
	list, err := n.Client.WalletSessions(ctx, since.Add(n.clock.offset()))
	for i := range list {
		list[i] = n.clock.toModule(list[i])
	}
	return list, err
}

// toModule converts a session's times from the node's clock to the module's.
func (c *clock) toModule(s session.ChainSession) session.ChainSession {
	for _, t := range []*time.Time{&s.OpenedAt, &s.EndsAt, &s.ClosedAt} {
		if !t.IsZero() {
			*t = t.Add(-c.offset())
		}
	}
	return s
}

// Advance moves the time of all sessions forward by d. A session past its end
// serves no further request and is soon closed, renewals become due, and opens
// age out of the budgets. Nothing else ages, and sessions in use stay claimed.
// Do not call it while a session is being opened. An error fails the test.
func (g *Gateway) Advance(d time.Duration) {
	g.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var assignments []string
	for _, column := range []string{"created_at", "called_at", "opened_at", "ends_at", "next_at", "last_used_at", "unknown_at", "closed_at", "charged_at"} {
		assignments = append(assignments, fmt.Sprintf(`%s = strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s, '%+.3f seconds')`, column, column, -d.Seconds()))
	}
	if _, err := g.DB.ExecContext(ctx, `UPDATE automation_sessions SET `+strings.Join(assignments, ", ")); err != nil {
		g.tb.Fatal(fmt.Errorf("automationtest: advance: %w", err))
	}
	g.clock.nanoseconds.Add(int64(d))
}
