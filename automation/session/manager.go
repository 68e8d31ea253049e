package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Manager hands out paid sessions and looks after them. Many managers, one a
// replica, share a database and a wallet.
type Manager struct {
	opts     Options
	provider Provider
	store    *store
	keeper   *keeper
	lines    lines
	typical  average // how long requests hold a session
	nudge    chan struct{}

	mu      sync.Mutex
	phase   phase
	base    context.Context //nolint:containedctx // of the opens, which outlive their requests
	ending  chan struct{}   // closed when no more claims are given
	opening sync.WaitGroup  // opens under way
}

type phase int

const (
	idle phase = iota
	running
	ending
)

// New makes a manager. It does no I/O; [Manager.Run] starts it.
func New(db *sqldb.DB, provider Provider, opts Options) (*Manager, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &store{db: db, holder: rand.Text(), lease: opts.Lease}
	return &Manager{opts: opts, provider: provider, store: s, keeper: newKeeper(s, opts.Now),
		nudge: make(chan struct{}, 1), ending: make(chan struct{})}, nil
}

// A Request asks for a session.
type Request struct {
	UserID   string
	ModelID  string
	Duration time.Duration // of a session that has to be opened for it
	// OmitProvider is the address of a provider whose sessions will not do.
	OmitProvider string
}

func (m *Manager) poolOf(userID, modelID string) pool {
	if m.opts.Shared {
		return pool{"", modelID}
	}
	return pool{userID, modelID}
}

// Acquire claims a session for one request: an idle one, one that becomes
// idle, or one that it has opened. It waits for AcquireTimeout at most, and
// returns a *BudgetError, an *UnavailableError, ErrNotRunning, the context's
// error, or the database's.
func (m *Manager) Acquire(ctx context.Context, req Request) (*Claim, error) {
	if req.UserID == "" || req.ModelID == "" || req.Duration < time.Second {
		return nil, fmt.Errorf("session: acquire(%q, %v): a user, a model and a duration of at least a second are needed", req.ModelID, req.Duration)
	}
	if !m.accepting() {
		return nil, ErrNotRunning
	}
	p := m.poolOf(req.UserID, req.ModelID)
	if !m.lines.crowded(p) {
		if c, err := m.claim(ctx, p, req); c != nil || err != nil {
			return c, err
		}
	}
	l, w := m.lines.join(p, req.UserID, req.OmitProvider)
	defer l.leave(w)
	wait, cancel := context.WithTimeout(ctx, m.opts.AcquireTimeout)
	defer cancel()
	poll := time.NewTimer(0)
	defer poll.Stop()
	q := asking{m: m, req: req, pool: p, line: l}
	for {
		select {
		case <-w.wake:
		case <-poll.C:
		case err := <-w.failed:
			return nil, m.unavailable(err)
		case <-m.ending:
			return nil, ErrNotRunning
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, m.unavailable(q.why())
		}
		leads, wanted, failed := l.lead(w)
		if !leads {
			continue
		}
		c, err := q.ask(ctx, wanted, failed)
		if c != nil || err != nil {
			return c, err
		}
		poll.Reset(q.pause())
	}
}

// asking is one request's questions to the database while it leads its line.
type asking struct {
	m     *Manager
	req   Request
	pool  pool
	line  *line
	last  answer
	asked int
	again time.Time // no reservation before, after a limit said no
}

// ask claims what is idle, or has opened what the line needs.
func (q *asking) ask(ctx context.Context, wanted int, failed error) (*Claim, error) {
	m := q.m
	q.asked++
	now := m.opts.Now()
	if failed == nil && (wanted == 0 || now.Before(q.again)) {
		return m.claim(ctx, q.pool, q.req)
	}
	if failed != nil {
		wanted = 0
	}
	o := order{pool: q.pool, user: q.req.UserID, omit: q.req.OmitProvider, duration: q.req.Duration,
		margin: m.margin(q.req.Duration), token: rand.Text()}
	for range min(wanted, 64) {
		o.opens = append(o.opens, lease{rand.Text(), rand.Text()})
	}
	m.opts.failpoint("before-intent")
	a, err := m.reserve(ctx, o)
	if err != nil {
		return nil, err
	}
	m.opts.failpoint("after-intent")
	if a.claimed != nil {
		return m.claimed(ctx, a.claimed, o.token, now)
	}
	q.last = a
	m.openAll(o, a.opens, now, q.line)
	switch {
	case len(a.opens) > 0 || a.Live+a.Opening > 0:
	case failed != nil:
		q.line.fail(failed)
	case a.refused != nil && a.Unknown == 0:
		return nil, a.refused
	}
	if a.refused != nil {
		q.again = now.Add(time.Second)
	}
	return nil, nil
}

// pause is how long to wait for news before asking again: other replicas
// release without a word.
func (q *asking) pause() time.Duration {
	return jitter(min(time.Duration(q.asked)*25*time.Millisecond, 250*time.Millisecond))
}

// why is what a request that has waited in vain is told.
func (q *asking) why() error {
	if q.last.Live > 0 {
		return ErrBusy
	}
	return ErrOpening
}

func (m *Manager) claim(ctx context.Context, p pool, req Request) (*Claim, error) {
	token, asked := rand.Text(), m.opts.Now()
	// A client that goes away must not leave a claim behind half made.
	r, err := m.store.claim(context.WithoutCancel(ctx), p, req.OmitProvider, token, m.margin(req.Duration))
	if r == nil {
		return nil, err
	}
	return m.claimed(ctx, r, token, asked)
}

func (m *Manager) reserve(ctx context.Context, o order) (answer, error) {
	return m.store.reserve(context.WithoutCancel(ctx), o,
		limits{m.opts.MaxPerUser, m.opts.OpensPerHour, m.opts.OpensPerDay, m.opts.MaxOpen})
}

// claimed makes a Claim of a row that was leased at asked.
func (m *Manager) claimed(ctx context.Context, r *row, token string, asked time.Time) (*Claim, error) {
	c := &Claim{m: m, row: r, lease: lease{r.ID, token}, begun: asked}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	m.keeper.add(c.lease, asked, c.cancel)
	if err := ctx.Err(); err != nil {
		c.Release()
		return nil, err
	}
	if !m.accepting() {
		c.Release()
		return nil, ErrNotRunning
	}
	return c, nil
}

// AcquireSession claims the session that a client named, for its own user
// alone. ErrUnmanaged says that it is none of ours, ErrNotYours that it is
// another's, ErrEnded that it has ended; a session in use is waited for.
func (m *Manager) AcquireSession(ctx context.Context, userID, sessionID string) (*Claim, error) {
	deadline := time.NewTimer(m.opts.AcquireTimeout)
	defer deadline.Stop()
	for i := 1; ; i++ {
		token, asked := rand.Text(), m.opts.Now()
		r, err := m.store.claimNamed(context.WithoutCancel(ctx), userID, sessionID, token)
		if err != nil {
			return nil, err
		}
		if r != nil {
			return m.claimed(ctx, r, token, asked)
		}
		select {
		case <-time.After(jitter(min(time.Duration(i)*25*time.Millisecond, 250*time.Millisecond))):
		case <-deadline.C:
			return nil, m.unavailable(ErrBusy)
		case <-m.ending:
			return nil, ErrNotRunning
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// unavailable says why, and when to come back.
func (m *Manager) unavailable(err error) error {
	retry := 10 * time.Second
	switch {
	case errors.Is(err, ErrBusy):
		retry = time.Duration(math.Ceil(m.typical.load().Seconds())) * time.Second
	case errors.Is(err, ErrOpening), errors.Is(err, ErrUnavailable), errors.Is(err, ErrWalletCollision):
		retry = 5 * time.Second
	}
	return &UnavailableError{RetryAfter: min(max(retry, time.Second), time.Minute), Err: err}
}

// margin is the least time to its end that a session of that duration is
// handed out with.
func (m *Manager) margin(duration time.Duration) time.Duration {
	return max(m.opts.Margin, min(2*m.typical.load(), duration/4))
}

func (m *Manager) accepting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase == running
}

// Info is a session as its user sees it.
type Info struct {
	SessionID string
	ModelID   string
	OpenedAt  time.Time
	EndsAt    time.Time
	Ending    bool // to be closed as soon as nobody uses it
	InUse     bool
}

func (r *row) info() Info {
	return Info{SessionID: r.SessionID.String, ModelID: r.ModelID, OpenedAt: r.OpenedAt.Time, EndsAt: r.EndsAt.Time,
		Ending: r.State == "ending", InUse: r.InUse}
}

// List returns the user's open sessions, the one that ends first before the others.
func (m *Manager) List(ctx context.Context, userID string) ([]Info, error) {
	rows, err := m.store.list(ctx, userID)
	list := make([]Info, len(rows))
	for i := range rows {
		list[i] = rows[i].info()
	}
	return list, err
}

// End closes a session of the user's on their word, as soon as the request
// that holds it has ended. ErrUnmanaged says that they have none of that id.
func (m *Manager) End(ctx context.Context, userID, sessionID string) (Info, error) {
	r, err := m.store.end(ctx, userID, sessionID, "user")
	if err != nil {
		return Info{}, err
	}
	m.Nudge()
	return r.info(), nil
}

// Forget takes the user's name off everything. Their open sessions serve
// nobody any more and ride to their end.
func (m *Manager) Forget(ctx context.Context, userID string) error {
	return m.store.forget(ctx, userID)
}

// Nudge makes the next round of maintenance come at once.
func (m *Manager) Nudge() {
	select {
	case m.nudge <- struct{}{}:
	default:
	}
}

// jitter is d give or take a quarter, so that replicas do not march in step.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(mathrand.Int64N(int64(d)/2+1))
}

// average is an exponentially weighted one, of durations.
type average struct{ ns atomic.Int64 }

func (a *average) observe(d time.Duration) {
	old := a.ns.Load()
	a.ns.Store(old + (int64(d)-old)/8) // a lost race loses one sample
}

func (a *average) load() time.Duration { return time.Duration(a.ns.Load()) }
