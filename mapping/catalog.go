package mapping

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// Catalog keeps a table in step with the file and, where there are, the feed
// and the node's registry. It is safe for concurrent use.
type Catalog struct {
	opts  Options
	feed  feed
	table atomic.Pointer[Table]

	mu       sync.Mutex // guards what follows; never held over I/O
	file     *file      // the last good one; nil before
	sum      [sha256.Size]byte
	sumErr   error // what became of the content of that sum
	models   []feedModel
	etag     string
	registry map[string]facts
	health   Health
}

// Health is the state of a Catalog.
type Health struct {
	Entries  int       // models; 0 before the first Load
	LoadedAt time.Time // when the file's present content was read
	Err      error     // why the file's newest state is not being served; nil when it is
	ErrAt    time.Time // when Err first happened; zero when Err is nil

	FeedModels  int       // live models in the feed's last good answer
	FeedSkipped int       // its entries that were malformed
	FeedAt      time.Time // when that answer was last known to be current; zero before the first, and without a feed
	FeedErr     error     // of the last request to the feed
	FeedErrAt   time.Time // when FeedErr first happened

	RegistryModels int       // models in the registry's last good answer
	RegistryAt     time.Time // when it was read; zero before the first, and without a registry
	RegistryErr    error     // of the last request to the registry
	RegistryErrAt  time.Time // when RegistryErr first happened
}

// New checks the options and returns a Catalog. It reads nothing. The error
// names every wrong option.
func New(opts Options) (*Catalog, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Catalog{opts: opts, feed: newFeed(opts)}, nil
}

// Load reads the file once, and replaces the table if its content changed. It
// makes no network call.
//
// An error means that the file is missing or invalid ([*ParseError]); it is
// logged as well, once as long as it stays the same. The last good table then
// serves on; without one Resolve has nothing to serve, and the gateway should
// not start.
func (c *Catalog) Load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := readFile(c.opts.File)
	if err != nil {
		return c.noteFile(err)
	}
	// The content decides, not the file's times: they are wrong after a copy that
	// keeps them, a write within one tick, or a swapped symlink.
	sum := sha256.Sum256(data)
	c.mu.Lock()
	known, err := sum == c.sum, c.sumErr
	c.mu.Unlock()
	if known {
		return c.noteFile(err)
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
	return c.noteFile(err)
}

// loadFeed asks the feed once and replaces the table if it changed. An error
// leaves everything as it is. Without a feed it does nothing.
func (c *Catalog) loadFeed(ctx context.Context) error {
	if c.opts.FeedURL == "" {
		return nil
	}
	c.mu.Lock()
	etag := c.etag
	c.mu.Unlock()
	answer, err := c.feed.fetch(ctx, etag)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the caller's own
	case err != nil:
		return c.noteFeed(err)
	}
	c.mu.Lock()
	c.health.FeedAt = c.opts.Now()
	if answer != nil {
		c.models, c.etag = answer.models, answer.etag
		c.health.FeedModels, c.health.FeedSkipped = len(answer.models), answer.skipped
		c.publish()
	}
	c.mu.Unlock()
	return c.noteFeed(nil)
}

// loadRegistry asks the registry once and replaces the table. An error leaves
// everything as it is. Without a registry it does nothing.
func (c *Catalog) loadRegistry(ctx context.Context) error {
	if c.opts.Registry == nil {
		return nil
	}
	stated, err := readRegistry(ctx, c.opts.Registry)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return c.noteRegistry(err)
	}
	c.mu.Lock()
	c.registry = stated
	c.health.RegistryModels, c.health.RegistryAt = len(stated), c.opts.Now()
	c.publish()
	c.mu.Unlock()
	return c.noteRegistry(nil)
}

// publish builds the table again. The caller holds mu.
func (c *Catalog) publish() {
	if c.file == nil {
		return
	}
	t := build(*c.file, c.models, c.registry)
	c.health.Entries = len(t.models)
	c.table.Store(t)
}

// Run keeps the table in step until ctx ends, and returns nil then. What fails
// is logged and shown by Health, the first Load too: a host that wants to stop
// then calls Load before.
func (c *Catalog) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
			_ = c.Load(ctx) // logged, and in Health
			return c.opts.FileInterval
		})
	})
	remote := func(load func(context.Context) error) func() {
		return func() {
			retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
				if load(ctx) != nil {
					return c.opts.FeedInterval / 10
				}
				return c.opts.FeedInterval
			})
		}
	}
	if c.opts.FeedURL != "" {
		wg.Go(remote(c.loadFeed))
	}
	if c.opts.Registry != nil {
		wg.Go(remote(c.loadRegistry))
	}
	return nil
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
			m.Match = matchFallback
		}
	}
	return m, err
}

// Table returns the newest good table, or nil before the first Load. It stays
// as it is when the Catalog replaces it.
func (c *Catalog) Table() *Table { return c.table.Load() }

// Health returns the state at this moment, without I/O.
func (c *Catalog) Health() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health
}

func (c *Catalog) noteFile(err error) error {
	return c.note(err, &c.health.Err, &c.health.ErrAt, "model mappings not reloaded; the last good ones serve", "model mappings are good again")
}

func (c *Catalog) noteFeed(err error) error {
	return c.note(err, &c.health.FeedErr, &c.health.FeedErrAt, "model feed failed; its last good answer serves", "model feed is good again")
}

func (c *Catalog) noteRegistry(err error) error {
	return c.note(err, &c.health.RegistryErr, &c.health.RegistryErrAt, "model registry failed; its last good answer serves", "model registry is good again")
}

// note stores an error and logs where it changed.
func (c *Catalog) note(err error, state *error, since *time.Time, failed, recovered string) error {
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
		c.opts.Logger.Error(failed, "error", err)
	case changed:
		c.opts.Logger.Info(recovered)
	}
	return err
}
