package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Manager hands out paid sessions and looks after them. Many managers, one a
// replica, share a database and a wallet.
type Manager struct {
	opts     Options
	provider Provider
	store    *store
	leases   *leaseManager
	claims   claimGroup
	queues   waitQueues

	// What it has learned.
	typical          average // how long a request holds a session
	opens            average // how long an open takes
	calls            average // of this, how long the node takes
	providers        providers
	ceilings         sync.Map                 // of a model's id to its ceiling
	prewarmed        atomic.Pointer[[]string] // the models that keep an idle session ready, as of the last round
	omitIgnoredUntil atomic.Int64             // unix nanoseconds: until then the node is taken to ignore OmitProvider

	wallet       semaphore // to wait for the wallet
	budget       semaphore // to reserve under the cap on all sessions
	reconcileNow retry.Trigger
	sweepNow     retry.Trigger

	mu      sync.Mutex
	phase   phase
	base    context.Context //nolint:containedctx // of the work in the background, which outlives its requests
	started chan struct{}   // closed when claims are given
	ending  chan struct{}   // closed when no more claims are given
	work    sync.WaitGroup  // in the background
}

type phase int

const (
	idle phase = iota
	running
	ending
)

// New makes a manager on the host's pool, whose tables package schema has
// created. It does no I/O; [Manager.Run] starts it. Its error names every
// invalid option.
func New(db *sqlx.DB, provider Provider, opts Options) (*Manager, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if db == nil {
		return nil, errors.New("session: New needs a database")
	}
	s := &store{db: sqldb.New(db, sqldb.Options{MaxConns: opts.MaxConns, Timeout: opts.sqlTimeout, InterpolateParams: true, Observe: opts.ObserveSQL}),
		holder: rand.Text(), lease: opts.Lease, coolDown: opts.CoolDown}
	linger := opts.Linger
	if s.db.SQLite() {
		linger = 0
	}
	m := &Manager{
		opts: opts, provider: provider, store: s, queues: waitQueues{now: opts.Now, holder: s.holder},
		wallet: make(semaphore, 1), budget: make(semaphore, 1), reconcileNow: retry.NewTrigger(), sweepNow: retry.NewTrigger(),
		started: make(chan struct{}), ending: make(chan struct{}),
	}
	if linger > 0 {
		m.queues.lingerDelay = linger + 4*pollInterval
	}
	m.leases = newLeaseManager(s, opts.Lease, linger, opts.Now, m.wake)
	m.claims = claimGroup{store: s, timeout: opts.sqlTimeout, background: m.background,
		undo: func(c claimRequest) { m.undo(reserveRequest{claimRequest: c}) }}
	return m, nil
}

// A Request asks for a session.
type Request struct {
	UserID   string
	ModelID  string
	Duration time.Duration // of a session that has to be opened for it; a few seconds are added
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
// idle, or one that is opened for it, of which there is one at most. It waits
// for AcquireTimeout at most, and returns a *BudgetError, an *UnavailableError,
// ErrNotRunning, the context's error, or the database's.
func (m *Manager) Acquire(ctx context.Context, req Request) (*Claim, error) {
	if req.UserID == "" || req.ModelID == "" || req.Duration < time.Second {
		return nil, fmt.Errorf("session: acquire(%q, %v): a user, a model and a duration of at least a second are needed", req.ModelID, req.Duration)
	}
	req.OmitProvider = strings.ToLower(req.OmitProvider)
	return m.acquire(ctx, &acquisition{m: m, req: req, pool: m.poolOf(req.UserID, req.ModelID)})
}

// AcquireSession claims the session that a client named, for its own user
// alone. ErrUnmanaged says that it is none of ours; it will never be adopted as
// one. ErrNotYours says that it is another's, ErrEnded that it has ended or is
// about to; a session in use is waited for.
func (m *Manager) AcquireSession(ctx context.Context, userID string, id ID) (*Claim, error) {
	if id == "" {
		return nil, errBadID
	}
	return m.acquire(ctx, &acquisition{m: m, req: Request{UserID: userID}, pool: namedPool(id), sessionID: id})
}

// unavailable says why, and when to come back.
func (m *Manager) unavailable(err error) error {
	after := 10 * time.Second
	switch {
	case errors.Is(err, ErrBusy):
		after = time.Duration(math.Ceil(m.typical.load().Seconds())) * time.Second
	case errors.Is(err, ErrOpening), errors.Is(err, ErrUnavailable):
		after = 5 * time.Second
	}
	return &UnavailableError{RetryAfter: min(max(after, time.Second), time.Minute), Err: err}
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

// background runs fn next to everything else; the end of Run waits for it. It
// returns false, and runs nothing, when Run is ending.
func (m *Manager) background(fn func(ctx context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != running {
		return false
	}
	base := m.base
	m.work.Go(func() { fn(base) })
	return true
}

// Info is a session as its user sees it.
type Info struct {
	SessionID string
	ModelID   string
	OpenedAt  time.Time
	EndsAt    time.Time // as its user chose; on the chain it is a little later
	Ending    bool      // to be closed as soon as nobody uses it
	InUse     bool
}

func (r *row) info() Info {
	info := Info{SessionID: r.SessionID.String, ModelID: r.ModelID, OpenedAt: r.OpenedAt.Time, EndsAt: r.EndsAt.Time,
		Ending: r.State == stateEnding, InUse: r.InUse}
	if chosen := r.OpenedAt.Add(r.chosen()); r.Fingerprint.Valid && chosen.Before(info.EndsAt) {
		info.EndsAt = chosen
	}
	return info
}

// List returns the user's open sessions, the one that ends first before the others.
func (m *Manager) List(ctx context.Context, userID string) ([]Info, error) {
	m.recall(ctx, func(r *row) bool { return r.UserID == userID }) // what lingers is not in use
	rows, err := m.store.list(ctx, userID)
	list := make([]Info, len(rows))
	for i := range rows {
		list[i] = rows[i].info()
	}
	return list, err
}

// End closes a session of the user's on their word, as soon as the request
// that holds it has ended. ErrUnmanaged says that they have none of that id.
func (m *Manager) End(ctx context.Context, userID string, id ID) (Info, error) {
	if userID == "" {
		return Info{}, ErrUnmanaged
	}
	return m.end(ctx, userID, id, reasonUser)
}

func (m *Manager) end(ctx context.Context, userID string, id ID, reason string) (Info, error) {
	r, err := m.store.end(ctx, userID, id, reason)
	if err != nil {
		return Info{}, err
	}
	m.leases.forbidHandOver(func(o *row) bool { return o.ID == r.ID })
	m.trigger()
	return r.info(), nil
}

// EraseUser takes the user's name off everything. Their open sessions serve
// nobody any more and are kept until they expire.
func (m *Manager) EraseUser(ctx context.Context, userID string) error {
	err := m.store.eraseUser(ctx, userID)
	m.leases.forbidHandOver(func(r *row) bool { return r.UserID == userID })
	return err
}

// trigger makes the next round of maintenance come at once.
func (m *Manager) trigger() {
	m.reconcileNow.Fire()
	m.sweepNow.Fire()
}

// semaphore lets one at a time through. Whoever waits for a lock that all replicas
// share holds a connection meanwhile, so a replica sends one at a time.
type semaphore chan struct{}

func (s semaphore) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s semaphore) release() { <-s }

// average is an exponentially weighted one, of durations.
type average struct{ ns atomic.Int64 }

func (a *average) observe(d time.Duration) {
	old := a.ns.Load()
	if old == 0 {
		old = int64(d)
	}
	a.ns.Store(old + (int64(d)-old)/8) // a lost race loses one sample
}

func (a *average) load() time.Duration { return time.Duration(a.ns.Load()) }
