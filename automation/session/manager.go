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

// Manager hands out paid sessions and manages their life. The managers of all
// replicas share one database and one wallet.
type Manager struct {
	opts     Options
	provider Provider
	store    *store
	leases   *leaseManager
	claims   claimGroup
	queues   waitQueues

	// What it has learned.
	typicalHold      average // how long a request holds a session
	opens            average // how long an open takes, with the wait for the wallet
	calls            average // how long the node alone needs to open a session
	providers        providers
	ceilings         sync.Map                 // from a model's id to its ceiling
	prewarmed        atomic.Pointer[[]string] // the models that keep an idle session ready, as of the last round
	omitIgnoredUntil atomic.Int64             // unix nanoseconds: until then it assumes that the node ignores OmitProvider

	wallet       semaphore // held while an intent waits for the wallet
	budget       semaphore // held while an open is reserved under MaxOpen
	reconcileNow retry.Trigger
	sweepNow     retry.Trigger

	mu      sync.Mutex
	phase   phase
	base    context.Context //nolint:containedctx // the context of the work in the background, which outlives its requests
	started chan struct{}   // closed when Run begins to give claims
	ending  chan struct{}   // closed when Run gives no more claims
	work    sync.WaitGroup  // the work in the background
}

type phase int

const (
	notStarted phase = iota
	running
	ending
)

// New returns a manager on the host's pool. Package schema must have created the
// tables. New does no I/O; [Manager.Run] starts the manager. The error names
// every invalid option.
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
	Duration time.Duration // of a session that is opened for it, to which some seconds are added; at least 1 s
	// OmitProvider is the address of a provider whose sessions are not wanted.
	OmitProvider string
}

// poolOf returns the pool that serves a user's requests for a model.
func (m *Manager) poolOf(userID, modelID string) pool {
	if m.opts.Shared {
		return pool{"", modelID}
	}
	return pool{userID, modelID}
}

// Acquire claims a session for one request: an idle one, one that becomes idle,
// or one that is opened for it. At most one is opened. It waits for
// AcquireTimeout at most. Its error is a *BudgetError, an *UnavailableError,
// ErrNotRunning, the context's or the database's.
func (m *Manager) Acquire(ctx context.Context, req Request) (*Claim, error) {
	if req.UserID == "" || req.ModelID == "" || req.Duration < time.Second {
		return nil, fmt.Errorf("session: Acquire(model %q, duration %v): needs a user, a model and a duration of at least 1 s", req.ModelID, req.Duration)
	}
	req.OmitProvider = strings.ToLower(req.OmitProvider)
	return m.acquire(ctx, &acquisition{m: m, req: req, pool: m.poolOf(req.UserID, req.ModelID)})
}

// AcquireSession claims the session that a client has named, if it is that user's.
// If the session is in use, it waits as Acquire does. Besides Acquire's errors
// it returns ErrUnmanaged if the manager has no session of that id, which is
// then never adopted; ErrNotYours if the session belongs to another user; and
// ErrEnded if it has ended or is about to.
func (m *Manager) AcquireSession(ctx context.Context, userID string, id ID) (*Claim, error) {
	if id == "" {
		return nil, errBadID
	}
	return m.acquire(ctx, &acquisition{m: m, req: Request{UserID: userID}, pool: namedPool(id), sessionID: id})
}

// unavailable returns an UnavailableError with the reason err.
func (m *Manager) unavailable(err error) error {
	retryAfter := 10 * time.Second
	switch {
	case errors.Is(err, ErrBusy):
		retryAfter = time.Duration(math.Ceil(m.typicalHold.load().Seconds())) * time.Second
	case errors.Is(err, ErrOpening), errors.Is(err, ErrUnavailable):
		retryAfter = 5 * time.Second
	}
	return &UnavailableError{RetryAfter: min(max(retryAfter, time.Second), time.Minute), Err: err}
}

// margin returns how long before its end a session of that duration is handed out
// for the last time.
func (m *Manager) margin(duration time.Duration) time.Duration {
	return max(m.opts.Margin, min(2*m.typicalHold.load(), duration/4))
}

// isAccepting reports whether Run gives claims.
func (m *Manager) isAccepting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase == running
}

// background runs fn in a goroutine that Run waits for before it returns. It
// reports whether it did: it runs nothing before Run, nor while Run is ending.
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
	EndsAt    time.Time // by the duration that its user chose; on the chain some seconds later
	Ending    bool      // it is closed as soon as nobody uses it
	InUse     bool
}

// info returns the row as its user sees it.
func (r *row) info() Info {
	info := Info{SessionID: r.SessionID.String, ModelID: r.ModelID, OpenedAt: r.OpenedAt.Time, EndsAt: r.EndsAt.Time,
		Ending: r.State == stateEnding, InUse: r.InUse}
	if chosen := r.OpenedAt.Add(r.chosen()); r.Fingerprint.Valid && chosen.Before(info.EndsAt) {
		info.EndsAt = chosen
	}
	return info
}

// List returns the user's open and ending sessions, ordered by their end.
func (m *Manager) List(ctx context.Context, userID string) ([]Info, error) {
	m.recall(ctx, func(r *row) bool { return r.UserID == userID }) // a lingering session is not in use
	rows, err := m.store.list(ctx, userID)
	list := make([]Info, len(rows))
	for i := range rows {
		list[i] = rows[i].info()
	}
	return list, err
}

// End marks a user's session for closing at their request. It is closed as soon as
// the request that uses it has ended. ErrUnmanaged says that the user has no such
// session that is open or ending.
func (m *Manager) End(ctx context.Context, userID string, id ID) (Info, error) {
	if userID == "" {
		return Info{}, ErrUnmanaged
	}
	r, err := m.store.end(ctx, userID, id)
	if err != nil {
		return Info{}, err
	}
	m.leases.forbidHandOver(func(o *row) bool { return o.ID == r.ID })
	m.trigger()
	return r.info(), nil
}

// EraseUser removes the user's name from all rows. Open sessions that only this
// user could use serve nobody any more, and are closed after their end.
func (m *Manager) EraseUser(ctx context.Context, userID string) error {
	err := m.store.eraseUser(ctx, userID)
	m.leases.forbidHandOver(func(r *row) bool { return r.UserID == userID })
	return err
}

// trigger starts the next round of maintenance at once.
func (m *Manager) trigger() {
	m.reconcileNow.Fire()
	m.sweepNow.Fire()
}

// semaphore lets one goroutine at a time through. A goroutine that waits for a lock
// of the database holds a connection meanwhile, so each replica lets only one wait.
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

// average is an exponentially weighted moving average of durations.
type average struct{ ns atomic.Int64 }

func (a *average) observe(d time.Duration) {
	old := a.ns.Load()
	if old == 0 {
		old = int64(d)
	}
	a.ns.Store(old + (int64(d)-old)/8) // a lost race loses one sample
}

func (a *average) load() time.Duration { return time.Duration(a.ns.Load()) }
