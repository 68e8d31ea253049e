package rollout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Options of a Controller. The zero value works.
type Options struct {
	// MaxConns is how many of the pool's connections are used at once; 0 is 4.
	MaxConns int
	// Observe, if set, is called after each database call with its name, how
	// long it waited for one of MaxConns, how long it took in all, and its error.
	Observe func(name string, wait, took time.Duration, err error)
	// Interval is the pause between two passes, give or take a tenth; 0 is 2 s.
	Interval time.Duration
	// Webhooks receive every event.
	Webhooks []Webhook
	// HTTPClient sends the webhooks; nil is one with a time-out of 10 s that
	// follows no redirects.
	HTTPClient *http.Client
	// Logger gets transitions and errors; nil discards.
	Logger *slog.Logger
	// Now is the clock for the limit per user and minute and for the webhooks'
	// timestamps; nil is time.Now. All else uses the database's clock.
	Now func() time.Time
}

// Controller moves flags through their rollouts, together with the controllers
// of other replicas on the same database.
type Controller struct {
	db         *sqldb.DB
	store      *Store
	o          Options
	log        *slog.Logger
	now        func() time.Time
	instanceID string

	mu      sync.Mutex      // held during a pass
	failing map[string]bool // the rollouts whose last pass failed; "" is the list of rollouts
	minute  uint64          // the Unix minute in which old failures were last deleted

	creating  sync.Mutex // held while a recorder is created
	recorders atomic.Pointer[map[string]*Recorder]
}

// New returns a controller on the host's pool. It does no I/O. Its error names
// all invalid options.
func New(pool *sqlx.DB, o Options) (*Controller, error) {
	errs := []error{checkWebhooks(o.Webhooks)}
	if o.Interval < 0 {
		errs = append(errs, fmt.Errorf("rollout: Options.Interval is %v, it must not be negative", o.Interval))
	}
	if o.MaxConns < 0 {
		errs = append(errs, fmt.Errorf("rollout: Options.MaxConns is %d, it must not be negative", o.MaxConns))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Interval == 0 {
		o.Interval = 2 * time.Second
	}
	if o.MaxConns == 0 {
		o.MaxConns = 4
	}
	if o.HTTPClient == nil {
		o.HTTPClient = defaultClient()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	db := sqldb.New(pool, sqldb.Options{MaxConns: o.MaxConns, Observe: o.Observe})
	c := &Controller{db: db, store: &Store{db: db, log: o.Logger}, o: o, log: o.Logger, now: o.Now, instanceID: rand.Text(), failing: map[string]bool{}}
	c.recorders.Store(&map[string]*Recorder{})
	return c, nil
}

// Store returns the store with the operators' actions and views.
func (c *Controller) Store() *Store { return c.store }

// Recorder returns the recorder of the flag of that name, the same one for each
// call. The controller keeps a recorder for every name, so use only a few names.
func (c *Controller) Recorder(name string) *Recorder {
	if r := c.recorder(name); r != nil {
		return r
	}
	c.creating.Lock()
	defer c.creating.Unlock()
	if r := c.recorder(name); r != nil {
		return r
	}
	r := newRecorder(name)
	all := maps.Clone(*c.recorders.Load())
	all[name] = r
	c.recorders.Store(&all)
	return r
}

// recorder returns the flag's recorder, or nil if it has not been created.
func (c *Controller) recorder(name string) *Recorder { return (*c.recorders.Load())[name] }

// Run makes a pass at every interval and sends webhooks until ctx ends. It then
// flushes the last counts, which takes at most 5 s, and returns when all of its
// goroutines have ended.
func (c *Controller) Run(ctx context.Context) {
	var senders sync.WaitGroup
	for _, hook := range c.o.Webhooks {
		senders.Go(func() { c.send(ctx, hook) })
	}
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		_ = c.Tick(ctx) // Tick has logged its errors
		return c.o.Interval
	})
	senders.Wait()
	flushCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = c.flushAll(flushCtx) // an error loses the counts of the last interval
}

// Tick makes one pass: it flushes the counts of this replica, evaluates every
// rollout that is due and that no other replica is evaluating, and takes the
// steps that follow. Each rollout has its own transaction, so that an error of
// one does not affect another. Tick returns all errors, joined. It logs the
// first error of a rollout, and again only after a pass without one.
func (c *Controller) Tick(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginMinute(ctx); err != nil {
		c.logFailing(ctx, "", err)
		return fmt.Errorf("rollout: tick: %w", err)
	}
	type activeRollout struct {
		Name string `db:"name"`
	}
	active, err := sqldb.Look[activeRollout](ctx, c.db, "rollout.active", `SELECT name FROM automation_rollouts
		WHERE state IN ('running', 'paused', 'completed') AND (state <> 'completed' OR watched_until > {now}) AND name IS NOT NULL ORDER BY name`)
	c.logFailing(ctx, "", err)
	if err != nil {
		return fmt.Errorf("rollout: tick: %w", err)
	}
	for name, r := range *c.recorders.Load() {
		if !slices.Contains(active, activeRollout{name}) {
			r.observe(nil, Plan{})
		}
	}
	var errs []error
	for _, r := range active {
		name := r.Name
		err := c.pass(ctx, name)
		c.logFailing(ctx, name, err)
		if err != nil {
			errs = append(errs, fmt.Errorf("rollout: tick(%q): %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// pass flushes the counts of one rollout and evaluates it if it is due.
func (c *Controller) pass(ctx context.Context, name string) error {
	type result struct {
		rollout rollout
		event   *Event
	}
	rec := c.recorder(name)
	b := rec.takeBatch()
	res, err := sqldb.Write(ctx, c.db, "rollout.pass", func(tx *sqldb.Tx) (res result, err error) {
		if err := b.write(tx, name, c.instanceID); err != nil {
			return res, err
		}
		stored, r, err := readRollout(tx, name, "")
		if err != nil || r == nil {
			return res, err
		}
		res.rollout = *r
		if stored.DueIn > 0 || !r.isWatched() {
			return res, nil
		}
		// Lock the row, if the rollout is still due and no other replica has locked
		// it to evaluate it.
		stored, r, err = readRollout(tx, name, `AND next_at <= {now} {skip}`)
		if err != nil || r == nil || !r.isWatched() {
			return res, err
		}
		res.rollout, res.event, err = c.evaluate(tx, *stored, *r)
		return res, err
	})
	if err != nil {
		b.undo()
		return err
	}
	b.done()
	if res.event != nil {
		logEvent(ctx, c.log, *res.event)
	}
	if rec == nil {
		return nil
	}
	if r := res.rollout; r.isWatched() {
		rec.observe(&stageRun{id: r.run, epoch: r.epoch, stage: r.stage}, r.plan)
	} else {
		rec.observe(nil, Plan{})
	}
	return nil
}

// maxElapsedIntervals bounds the time between two evaluations, in intervals. A
// longer time does not count as watched.
const maxElapsedIntervals = 5

// evaluate evaluates a rollout whose row is locked, and writes what follows. It
// returns the rollout as written, and the event if it took a step.
func (c *Controller) evaluate(tx *sqldb.Tx, stored row, r rollout) (rollout, *Event, error) {
	evidence, err := sumEvidence(tx, r.name, r.run)
	if err != nil {
		return r, nil, err
	}
	elapsed := time.Duration(-stored.LookedIn * float64(time.Second))
	in := inputs{at: r.lookedAt.Add(elapsed), elapsed: elapsed, maxElapsed: maxElapsedIntervals * c.o.Interval, evidence: evidence,
		users: func(gate int, since time.Time) (int64, error) {
			return countUsers(tx, r.name, r.run, gateKinds[gate], since)
		}}
	if in.flag, err = readFlagHead(tx, r.name); err != nil {
		return r, nil, err
	}
	if minute := in.at.Unix() / 60; minute != r.memory.Minute {
		r.memory.Minute = minute
		if err := saveMinute(tx, r, in.at, evidence); err != nil {
			return r, nil, err
		}
	}
	after, s, err := r.evaluate(in)
	if err != nil {
		return r, nil, err
	}
	if s == nil {
		return after, nil, save(tx, after, c.o.Interval, false, false)
	}
	e, err := applyStep(tx, r, *s, evidence)
	return s.next, &e, err
}

// logEvent logs a transition.
func logEvent(ctx context.Context, log *slog.Logger, e Event) {
	level := slog.LevelInfo
	if e.Action == actionRollback || e.Action == actionStepBack || e.Action == actionBreach {
		level = slog.LevelError
	}
	log.Log(ctx, level, "rollout: "+string(e.Action), "rollout", e.Rollout, "epoch", e.Epoch, "stage", e.StageName,
		"percentage", e.Percentage.String(), "from", e.From, "to", e.To, "by", e.Actor, "detail", e.Detail)
}

// logFailing logs the first error of a rollout, and the first pass without an
// error after it.
func (c *Controller) logFailing(ctx context.Context, name string, err error) {
	if ctx.Err() != nil || c.failing[name] == (err != nil) {
		return
	}
	if err == nil {
		delete(c.failing, name)
		c.log.InfoContext(ctx, "rollouts can be evaluated again", "rollout", name)
		return
	}
	c.failing[name] = true
	c.log.ErrorContext(ctx, "a rollout cannot be evaluated; its flag stays as it is", "rollout", name, "error", err)
}
