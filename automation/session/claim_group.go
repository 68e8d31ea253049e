package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// claimGroup claims sessions for requests that do not wait in a queue. A claim that finds
// all connections busy waits for one, together with others. When a connection is free, a
// single statement makes all these claims, each with its own token.
// docs/decisions/0010-grouped-claims.md has the reasons.
type claimGroup struct {
	store      *store
	timeout    time.Duration // bounds a claim and its wait for a connection
	background func(fn func(context.Context)) bool
	undo       func(claimRequest) // releases the session that a claim has leased, or may have leased

	mu      sync.Mutex
	waiting []*waitingClaim // the oldest first
	sending bool            // a goroutine waits for a connection on their behalf
}

// maxGroupedClaims bounds how many rows one statement locks.
const maxGroupedClaims = 32

// waitingClaim is a claim that waits for a connection, or for its statement.
type waitingClaim struct {
	claimRequest
	result    chan claimResult // buffered for the only result
	abandoned bool             // its request does not wait any more; guarded by the group's lock
}

type claimResult struct {
	row *row
	err error
}

// errClaimAlone is the result of all claims of a statement that the database has refused.
// One claim may have been the cause, so each is repeated alone.
var errClaimAlone = errors.New("session: the claims of a group failed together")

// claim is store.claimAtOnce. If all connections are busy, it claims together with other
// requests.
func (g *claimGroup) claim(ctx context.Context, c claimRequest) (*row, error) {
	if g.store.db.SQLite() || !g.store.db.IsBusy() {
		return g.store.claimAtOnce(ctx, c)
	}
	wait, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	w := g.join(c)
	var r claimResult
	select {
	case r = <-w.result:
	case <-wait.Done():
		if r = g.leave(w); r.err == nil && r.row == nil {
			r.err = fmt.Errorf("sessions.claim: %w: %w", sqldb.ErrUnavailable, wait.Err())
		}
	}
	if errors.Is(r.err, errClaimAlone) {
		return g.store.claimAtOnce(ctx, c)
	}
	return r.row, r.err
}

// join adds a claim to those that wait for a connection.
func (g *claimGroup) join(c claimRequest) *waitingClaim {
	w := &waitingClaim{claimRequest: c, result: make(chan claimResult, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	start := !g.sending
	g.sending = true
	g.mu.Unlock()
	if start {
		g.start()
	}
	return w
}

// leave ends a claim whose time is over. It returns the claim's result if there is one
// already.
func (g *claimGroup) leave(w *waitingClaim) claimResult {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case r := <-w.result:
		return r
	default:
	}
	w.abandoned = true
	g.waiting = slices.DeleteFunc(g.waiting, func(other *waitingClaim) bool { return other == w })
	return claimResult{}
}

// start runs send in the background, or fails the waiting claims if Run is ending.
func (g *claimGroup) start() {
	if g.background(g.send) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range g.waiting {
		w.result <- claimResult{err: ErrNotRunning}
	}
	g.waiting, g.sending = nil, false
}

// send waits for a connection and makes the claims that wait by then.
func (g *claimGroup) send(ctx context.Context) {
	var b claimBatch
	rows, err := sqldb.QueryFunc[claimedRow](ctx, g.store.db, "sessions.claim", func() (string, []any) {
		return g.store.claimStatement(g.take(&b))
	})
	g.deliver(&b, rows, err)
}

// claimBatch has the claims of one statement. The group's lock guards it.
type claimBatch struct {
	claims []*waitingClaim
	taken  bool // the statement has been made
	closed bool // no claims may be added any more
}

// take moves the oldest claims into the batch, at most one of each pool: a transaction does
// not skip rows that it has locked itself, so two claims of a pool would find the same row.
func (g *claimGroup) take(b *claimBatch) []*waitingClaim {
	g.mu.Lock()
	if b.closed {
		g.mu.Unlock()
		return nil
	}
	pools := map[pool]bool{}
	g.waiting = slices.DeleteFunc(g.waiting, func(w *waitingClaim) bool {
		if len(b.claims) == maxGroupedClaims || pools[w.pool] {
			return false
		}
		pools[w.pool] = true
		b.claims = append(b.claims, w)
		return true
	})
	b.taken = true
	g.sending = len(g.waiting) > 0
	start, claims := g.sending, b.claims
	g.mu.Unlock()
	if start {
		g.start()
	}
	return claims
}

// deliver sends each claim of the batch its result. Sessions that were leased for claims
// which do not wait any more are released.
func (g *claimGroup) deliver(b *claimBatch, rows []claimedRow, err error) {
	unknown := errors.Is(err, sqldb.ErrOutcomeUnknown)
	if err != nil && !unknown && !errors.Is(err, sqldb.ErrUnavailable) {
		err = errClaimAlone
	}
	byToken := make(map[string]*row, len(rows))
	for i := range rows {
		byToken[rows[i].Token] = &rows[i].row
	}
	g.mu.Lock()
	b.closed = true
	var undo []claimRequest
	for _, w := range b.claims {
		r := byToken[w.token]
		switch {
		case !w.abandoned:
			w.result <- claimResult{r, err}
		case r != nil || unknown:
			undo = append(undo, w.claimRequest)
		}
	}
	start := false
	if !b.taken { // no connection was free in time
		g.sending = len(g.waiting) > 0
		start = g.sending
	}
	g.mu.Unlock()
	for _, c := range undo {
		g.undo(c)
	}
	if start {
		g.start()
	}
}

// claimedRow is a row with the token of the claim that has leased it.
type claimedRow struct {
	row
	Token string `db:"lease_token"`
}

// claimStatement returns the statement that claims for several requests of different pools
// what claimQuery claims for one. It returns "" for an empty list.
func (s *store) claimStatement(list []*waitingClaim) (query string, args []any) {
	if len(list) == 0 {
		return "", nil
	}
	args = []any{s.holder, s.lease.Seconds(), s.coolDown.Seconds(), tolerance.Seconds()}
	values := make([]string, len(list))
	for i, w := range list {
		n := len(args)
		values[i] = fmt.Sprintf(`(CAST($%d AS text), CAST($%d AS text), CAST($%d AS text), CAST($%d AS double precision), CAST($%d AS text))`, n+1, n+2, n+3, n+4, n+5)
		args = append(args, w.token, w.owner, w.model, w.margin.Seconds(), jsonList(w.omit))
	}
	idle := idleSession("r.owner", "r.model", "r.margin", "r.omit", "$3", "''", "$4")
	return `WITH request (token, owner, model, margin, omit) AS (VALUES ` + strings.Join(values, ", ") + `),
		found (request_token, found_id) AS MATERIALIZED (SELECT r.token, idle.id FROM request r CROSS JOIN LATERAL (` + idle + `) idle)
		UPDATE automation_sessions SET lease_token = request_token, lease_holder = $1, lease_until = {in $2}, last_used_at = {now}
		FROM found WHERE id = found_id RETURNING ` + claimColumns + `, lease_token`, args
}
