package mapping

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Catalog keeps a table in step with the file and, where there is one, the
// feed. Its methods may be called by any number of goroutines.
type Catalog struct {
	opts  Options
	feed  feed
	table atomic.Pointer[Table]

	mu     sync.Mutex // guards what follows; never held over I/O
	file   *file      // the last good one; nil before
	sum    [sha256.Size]byte
	sumErr error // what became of the content of that sum
	models []feedModel
	etag   string
	health Health
}

// Health is the state of a Catalog.
type Health struct {
	Entries  int       // names that can be asked for, the feed's included; 0 before the first Load
	LoadedAt time.Time // when the file's present content was taken in
	Err      error     // why the file's newest state is not being served; nil when it is
	ErrAt    time.Time // when Err was first met; zero when Err is nil

	FeedModels  int       // live models in the feed's last good answer
	FeedSkipped int       // its entries that made no sense
	FeedAt      time.Time // when that answer was last known to be current; zero before the first, and without a feed
	FeedErr     error     // what is wrong with the feed, or with storing its copy; nil when nothing is
	FeedErrAt   time.Time // when FeedErr was first met
}

// New checks the options and wires a Catalog. It reads nothing. The error
// names every wrong option.
func New(opts Options) (*Catalog, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Catalog{opts: opts, feed: feed{url: opts.FeedURL, client: opts.Client}}, nil
}

// Load reads the file once, and takes it in if its content changed. The first
// Load also reads the stored copy of the feed. It touches no network.
//
// An error means that the file is missing or invalid ([*ParseError]); it is
// logged as well, once as long as it stays the same. The last good table then
// goes on serving; without one Resolve has nothing to serve, and the gateway
// should not start.
func (c *Catalog) Load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.opts.FeedURL != "" && c.opts.FeedCache != "" && c.table.Load() == nil && c.Health().FeedAt.IsZero() {
		c.restoreFeed()
	}
	data, err := readFile(c.opts.File, MaxFileSize)
	if err != nil {
		return c.fileState(err)
	}
	// The content decides, not the file's times: they lie after a copy that
	// keeps them, a write within one tick, or a swapped symlink.
	sum := sha256.Sum256(data)
	c.mu.Lock()
	known, err := sum == c.sum, c.sumErr
	c.mu.Unlock()
	if known {
		return c.fileState(err)
	}
	f, err := parseNamed(c.opts.File, data)
	c.mu.Lock()
	c.sum, c.sumErr = sum, err
	if err == nil {
		c.file = &f
		c.health.LoadedAt = c.opts.Now()
		c.publish()
	}
	c.mu.Unlock()
	if err == nil {
		c.opts.Logger.InfoContext(ctx, "model mappings loaded", "file", c.opts.File, "names", len(f.models))
	}
	return c.fileState(err)
}

// LoadFeed asks the feed once and takes in what changed. An error leaves
// everything as it is. Without a feed it does nothing.
func (c *Catalog) LoadFeed(ctx context.Context) error {
	if c.opts.FeedURL == "" {
		return nil
	}
	c.mu.Lock()
	etag := c.etag
	c.mu.Unlock()
	answer, err := c.feed.fetch(ctx, etag)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the caller's own doing
	case err != nil:
		return c.feedState(err)
	}
	c.takeFeed(answer, c.opts.Now())
	if answer != nil && c.opts.FeedCache != "" {
		err = writeFile(c.opts.FeedCache, answer.body)
	}
	return c.feedState(err)
}

// restoreFeed takes in the stored copy, as old as its file. A missing or
// spoilt copy is nothing worse than none.
func (c *Catalog) restoreFeed() {
	info, err := os.Stat(c.opts.FeedCache)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	body, err := readFile(c.opts.FeedCache, MaxFeedSize)
	var answer *feedAnswer
	if err == nil {
		answer, err = parseFeed(body)
	}
	if c.feedState(err) == nil {
		c.takeFeed(answer, info.ModTime())
	}
}

// takeFeed notes that the answer, or the last one where it is nil, is current.
func (c *Catalog) takeFeed(answer *feedAnswer, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.health.FeedAt = at
	if answer == nil {
		return
	}
	c.models, c.etag = answer.models, answer.etag
	c.health.FeedModels, c.health.FeedSkipped = len(answer.models), answer.skipped
	c.publish()
}

// publish makes the table anew. The caller holds mu.
func (c *Catalog) publish() {
	if c.file == nil {
		return
	}
	t := build(*c.file, c.models)
	c.health.Entries = len(t.models)
	c.table.Store(t)
}

// Run keeps the table in step with the file and the feed until ctx ends, and
// then returns nil. What goes wrong is logged and shown by Health; a file that
// cannot be read at first is tried again.
func (c *Catalog) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		every(ctx, func() time.Duration {
			_ = c.Load(ctx) // logged, and in Health
			return c.opts.FileInterval
		})
	})
	if c.opts.FeedURL != "" {
		wg.Go(func() {
			every(ctx, func() time.Duration {
				if c.LoadFeed(ctx) != nil {
					return c.opts.FeedInterval / 10
				}
				return c.opts.FeedInterval
			})
		})
	}
	wg.Wait()
	return nil
}

// every makes passes until ctx ends, with the pause that each returns, give or
// take a tenth, so that replicas do not ask in step.
func every(ctx context.Context, pass func() time.Duration) {
	for {
		pause := time.Duration(float64(pass()) * (0.9 + 0.2*rand.Float64()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Resolve finds a model as [Table.Resolve] does, in the newest good table, and
// lets the default serve unknown names where Options.UnknownIsDefault says so.
// Before the first Load the error is [ErrNotLoaded].
func (c *Catalog) Resolve(name string, want Type) (Model, error) {
	t := c.table.Load()
	if t == nil {
		return Model{}, ErrNotLoaded
	}
	m, err := t.Resolve(name, want)
	if err == nil || !c.opts.UnknownIsDefault {
		return m, err
	}
	if miss, ok := errors.AsType[*NotFoundError](err); ok && len(miss.Suggestions) == 0 {
		if m, err = t.Resolve(defaultName, want); err == nil {
			m.Match = Fallback
		}
	}
	return m, err
}

// Table returns the newest good table, or nil before the first Load. It stays
// as it is while the Catalog moves on.
func (c *Catalog) Table() *Table { return c.table.Load() }

// Health returns the state at this moment, without I/O.
func (c *Catalog) Health() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health
}

func (c *Catalog) fileState(err error) error {
	return c.note(err, &c.health.Err, &c.health.ErrAt, "model mappings not reloaded; the last good ones serve", "model mappings are good again")
}

func (c *Catalog) feedState(err error) error {
	return c.note(err, &c.health.FeedErr, &c.health.FeedErrAt, "model feed failed; its last good answer serves", "model feed is good again")
}

// note keeps the state and logs where it changed.
func (c *Catalog) note(err error, state *error, since *time.Time, bad, good string) error {
	c.mu.Lock()
	before := *state
	changed := (err == nil) != (before == nil) || err != nil && err.Error() != before.Error()
	if changed {
		*state, *since = err, time.Time{}
		if err != nil {
			*since = c.opts.Now()
		}
	}
	c.mu.Unlock()
	switch {
	case changed && err != nil:
		c.opts.Logger.Error(bad, "error", err)
	case changed:
		c.opts.Logger.Info(good)
	}
	return err
}
