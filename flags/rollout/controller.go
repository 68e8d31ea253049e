package rollout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Options of a Controller. The zero value works.
type Options struct {
	// Interval is the pause between two passes, give or take a tenth: of
	// handing in this replica's counts, and of looking at rollouts; 0 is 2 s.
	Interval time.Duration
	// UserPerMinute is how many outcomes one user can contribute in a minute,
	// per arm and replica: 1 to 255; 0 is 5.
	UserPerMinute int
	// CoolDown is how long a replica that has tripped stays out; 0 is 5 min.
	CoolDown time.Duration
	// Webhooks are told of every event.
	Webhooks []Webhook
	// Client sends the webhooks; nil is one with a time-out of 10 s that
	// follows no redirects.
	Client *http.Client
	// Logger gets transitions and troubles; nil discards.
	Logger *slog.Logger
	// Now is the clock of cool-downs, of the users' minutes, and of webhooks'
	// timestamps; nil is time.Now. Rollouts go by the database's.
	Now func() time.Time
}

// Controller moves flags through their rollouts, together with those of other
// replicas on the same database.
type Controller struct {
	db          *sqldb.DB
	o           Options
	log         *slog.Logger
	now         func() time.Time
	incarnation string

	mu        sync.Mutex // of passes
	troubles  map[string]string
	making    sync.Mutex // of recorders
	recorders atomic.Pointer[map[string]*Recorder]
}

// New is a controller on the host's pool, of which it uses at most 4
// connections at once. It does no I/O. Its error names all faulty options.
func New(pool *sqlx.DB, o Options) (*Controller, error) {
	return NewOn(sqldb.New(pool, sqldb.Options{MaxConns: 4}), o)
}

// NewOn is New with the bounds that this module's other packages share. Hosts
// use New.
func NewOn(db *sqldb.DB, o Options) (*Controller, error) {
	var errs []error
	if o.UserPerMinute == 0 {
		o.UserPerMinute = 5
	}
	if o.UserPerMinute < 0 || o.UserPerMinute > maxUser {
		errs = append(errs, fmt.Errorf("rollout: Options.UserPerMinute is %d, it must be 1 to %d", o.UserPerMinute, maxUser))
	}
	for _, d := range []struct {
		name string
		is   *time.Duration
		def  time.Duration
	}{{"Interval", &o.Interval, 2 * time.Second}, {"CoolDown", &o.CoolDown, 5 * time.Minute}} {
		if *d.is == 0 {
			*d.is = d.def
		}
		if *d.is < 0 {
			errs = append(errs, fmt.Errorf("rollout: Options.%s is %v, it must be above 0", d.name, *d.is))
		}
	}
	errs = append(errs, checkWebhooks(o.Webhooks))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Client == nil {
		o.Client = defaultClient()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the default
	}
	c := &Controller{db: db, o: o, log: o.Logger, now: o.Now, incarnation: rand.Text(), troubles: map[string]string{}}
	c.recorders.Store(&map[string]*Recorder{})
	return c, nil
}

// Recorder is where the outcomes of requests under that flag go; always the
// same one for a name. It is meant for a handful of names, which it keeps.
func (c *Controller) Recorder(name string) *Recorder {
	if r := c.recorder(name); r != nil {
		return r
	}
	c.making.Lock()
	defer c.making.Unlock()
	if r := c.recorder(name); r != nil {
		return r
	}
	r := newRecorder(name, c.o)
	all := maps.Clone(*c.recorders.Load())
	all[name] = r
	c.recorders.Store(&all)
	return r
}

// recorder is the one that exists, or nil.
func (c *Controller) recorder(name string) *Recorder { return (*c.recorders.Load())[name] }

// Run works until ctx ends: a pass at every interval, and the sending of
// webhooks. It then hands in its last counts, for which it waits up to 5 s, and
// returns when all it started has ended.
func (c *Controller) Run(ctx context.Context) {
	var senders sync.WaitGroup
	for _, hook := range c.o.Webhooks {
		senders.Go(func() { c.send(ctx, hook) })
	}
	c.loop(ctx, func() time.Duration {
		_ = c.Tick(ctx)
		return c.o.Interval
	})
	senders.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = c.handIn(last)
}

// loop calls pass, and again after the pause that it returns, with jitter.
func (c *Controller) loop(ctx context.Context, pass func() time.Duration) {
	for ctx.Err() == nil {
		pause := time.NewTimer(time.Duration(float64(pass()) * (0.9 + 0.2*mathrand.Float64())))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// Tick is one pass: it hands in what this replica has counted, looks at every
// rollout that is due and that no other replica is looking at, and takes the
// steps that are to be taken. Each rollout has a transaction of its own, and
// one that fails harms no other. The error joins them all; troubles are logged
// once for as long as they last.
func (c *Controller) Tick(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginMinute()
	c.warnOfTrips(ctx)
	names, err := sqldb.Read(ctx, c.db, "rollout.active", func(tx *sqldb.Tx) (names []string, err error) {
		return names, tx.Select(&names, `SELECT name FROM automation_rollouts WHERE state IN ('running', 'paused') AND name IS NOT NULL ORDER BY name`)
	})
	c.trouble(ctx, "", err)
	if err != nil {
		return fmt.Errorf("rollout: tick: %w", err)
	}
	for name, r := range *c.recorders.Load() {
		if !slices.Contains(names, name) {
			r.watch(nil, Plan{})
		}
	}
	var errs []error
	for _, name := range names {
		err := c.pass(ctx, name)
		c.trouble(ctx, name, err)
		if err != nil {
			errs = append(errs, fmt.Errorf("rollout: tick(%q): %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// pass hands in the counts of one rollout and looks at it if it is due.
func (c *Controller) pass(ctx context.Context, name string) error {
	type result struct {
		now    rollout
		event  *Event
		counts [arms]Counts
		trips  int64
	}
	rec := c.recorder(name)
	got, err := sqldb.Write(ctx, c.db, "rollout.pass", func(tx *sqldb.Tx) (got result, err error) {
		if got.counts, err = c.write(tx, rec); err != nil {
			return got, err
		}
		if rec != nil && rec.trip.count.Load() > rec.trip.said {
			if got.trips, err = c.sayTripped(tx, rec); err != nil {
				return got, err
			}
		}
		w, r, err := read(tx, name, "")
		if err != nil || r == nil {
			return got, err
		}
		got.now = *r
		if w.DueIn > 0 || !r.watching() {
			return got, nil
		}
		// Another replica may be looking, or have looked: then it is not due.
		w, r, err = read(tx, name, `AND next_at <= {now} {skip}`)
		if err != nil || r == nil || !r.watching() {
			return got, err
		}
		got.now, got.event, err = c.look(tx, *w, *r)
		return got, err
	})
	if err != nil {
		return err
	}
	if got.event != nil {
		c.say(ctx, *got.event)
	}
	if rec == nil {
		return nil
	}
	rec.handedIn(got.counts, got.trips)
	if r := got.now; r.state == Running || r.state == Paused {
		rec.watch(&bake{id: r.bake, epoch: r.epoch, stage: r.stage}, r.plan)
	} else {
		rec.watch(nil, Plan{})
	}
	return nil
}

// look is one look at a rollout whose row is locked.
func (c *Controller) look(tx *sqldb.Tx, w row, r rollout) (rollout, *Event, error) {
	evidence, err := sumUp(tx, `rollout = $1 AND bake = $2`, r.name, r.bake)
	if err != nil {
		return r, nil, err
	}
	in := sight{elapsed: time.Duration(-w.LookedIn * float64(time.Second)), gap: watchGap * c.o.Interval, evidence: evidence}
	if in.flagVersion, in.flagBy, err = flagNow(tx, r.name); err != nil {
		return r, nil, err
	}
	after, s := r.look(in)
	if s == nil {
		return after, nil, save(tx, after, c.o.Interval, false, false)
	}
	e, err := take(tx, r, *s, evidence)
	return s.next, &e, err
}

// watchGap is how many intervals may lie between two looks for the time
// between them to be watched.
const watchGap = 5

// say logs an event.
func (c *Controller) say(ctx context.Context, e Event) {
	level := slog.LevelInfo
	if e.Action == TookBack || e.Action == Breached || e.Action == Tripped {
		level = slog.LevelError
	}
	c.log.Log(ctx, level, "rollout: "+string(e.Action), "rollout", e.Rollout, "epoch", e.Epoch, "stage", e.StageName,
		"percentage", e.Percentage.String(), "from", e.From, "to", e.To, "by", e.Actor, "detail", e.Detail)
}

// trouble logs what is wrong with a rollout, once, and that it is over.
func (c *Controller) trouble(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return
	}
	was, is := c.troubles[name], ""
	if err != nil {
		is = err.Error()
	}
	switch {
	case is == "" && was != "":
		delete(c.troubles, name)
		c.log.InfoContext(ctx, "rollouts can be looked at again", "rollout", name)
	case is != "" && was == "":
		c.troubles[name] = is
		c.log.ErrorContext(ctx, "a rollout cannot be looked at; its flag stays as it is", "rollout", name, "error", err)
	}
}
