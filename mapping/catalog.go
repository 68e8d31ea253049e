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

// Catalog keeps a table up to date with the file, and with the feed and the node's
// registry if they are configured. It is safe for concurrent use.
type Catalog struct {
	opts  Options
	feed  feed
	table atomic.Pointer[Table]

	mu       sync.Mutex        // guards the fields below; never held over I/O
	file     *file             // the last valid one; nil before the first
	sum      [sha256.Size]byte // of the last content that was read
	sumErr   error             // of parsing that content
	models   []feedModel       // of the feed's last good response
	etag     string            // of that response
	registry map[string]facts
	health   Health
}

// Health is the state of a Catalog.
type Health struct {
	Entries  int       // models in the table; 0 before the first successful Load
	LoadedAt time.Time // when the content that is in use was first read
	Err      error     // of the last Load
	ErrAt    time.Time // when Err first happened; zero if Err is nil

	FeedModels  int       // live models in the feed's last good response
	FeedSkipped int       // malformed entries in that response
	FeedAt      time.Time // when that response was last current; zero before the first
	FeedErr     error     // of the last request to the feed
	FeedErrAt   time.Time // when FeedErr first happened; zero if FeedErr is nil

	RegistryModels int       // models in the registry's last good response
	RegistryAt     time.Time // when that response was read; zero before the first
	RegistryErr    error     // of the last request to the registry
	RegistryErrAt  time.Time // when RegistryErr first happened; zero if RegistryErr is nil
}

// New validates the options and returns a Catalog. It reads nothing. The error
// names every invalid option.
func New(opts Options) (*Catalog, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Catalog{opts: opts, feed: newFeed(opts)}, nil
}

// Load reads the file once, and replaces the table if the file's content has
// changed. It makes no network call.
//
// An error means that the file is missing or invalid ([*ParseError]). The last
// table then stays in use; if there is none, the gateway should not start. Load
// logs an error when it first happens.
func (c *Catalog) Load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := readFile(c.opts.File)
	if err != nil {
		return c.noteFile(err)
	}
	// Only the content shows reliably whether the file has changed: its times do
	// not after a copy that keeps them, two writes within one tick, or a swapped
	// symlink.
	sum := sha256.Sum256(data)
	c.mu.Lock()
	isUnchanged, err := sum == c.sum, c.sumErr
	c.mu.Unlock()
	if isUnchanged {
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

// loadFeed reads the feed once, and replaces the table if the feed has changed.
// After an error the table stays as it is. Without a feed it does nothing.
func (c *Catalog) loadFeed(ctx context.Context) error {
	if c.opts.FeedURL == "" {
		return nil
	}
	c.mu.Lock()
	etag := c.etag
	c.mu.Unlock()
	resp, err := c.feed.fetch(ctx, etag)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // not a failure of the feed
	case err != nil:
		return c.noteFeed(err)
	}
	c.mu.Lock()
	c.health.FeedAt = c.opts.Now()
	if resp != nil {
		c.models, c.etag = resp.models, resp.etag
		c.health.FeedModels, c.health.FeedSkipped = len(resp.models), resp.skipped
		c.publish()
	}
	c.mu.Unlock()
	return c.noteFeed(nil)
}

// loadRegistry reads the registry once, and replaces the table. After an error the
// table stays as it is. Without a registry it does nothing.
func (c *Catalog) loadRegistry(ctx context.Context) error {
	if c.opts.Registry == nil {
		return nil
	}
	registry, err := readRegistry(ctx, c.opts.Registry)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // not a failure of the registry
	case err != nil:
		return c.noteRegistry(err)
	}
	c.mu.Lock()
	c.registry = registry
	c.health.RegistryModels, c.health.RegistryAt = len(registry), c.opts.Now()
	c.publish()
	c.mu.Unlock()
	return c.noteRegistry(nil)
}

// publish builds and stores a new table, once there is a file. The caller must
// hold mu.
func (c *Catalog) publish() {
	if c.file == nil {
		return
	}
	t := build(*c.file, c.models, c.registry)
	c.health.Entries = len(t.models)
	c.table.Store(t)
}

// Run keeps the table up to date until ctx ends, and returns nil then. It logs
// errors, and Health shows them. Run also continues if the file cannot be loaded
// at first: a host that should not start then must call Load before.
func (c *Catalog) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
			_ = c.Load(ctx) // logged, and in Health
			return c.opts.FileInterval
		})
	})
	pollRemote := func(load func(context.Context) error) {
		retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
			if load(ctx) != nil {
				return c.opts.FeedInterval / 10
			}
			return c.opts.FeedInterval
		})
	}
	if c.opts.FeedURL != "" {
		wg.Go(func() { pollRemote(c.loadFeed) })
	}
	if c.opts.Registry != nil {
		wg.Go(func() { pollRemote(c.loadRegistry) })
	}
	return nil
}

// Resolve is [Table.Resolve] of the current table, except that with
// Options.UnknownIsDefault a name without suggestions resolves to the default.
// Before the first successful Load the error is [ErrNotLoaded].
func (c *Catalog) Resolve(name string, want Type) (Model, error) {
	t := c.table.Load()
	if t == nil {
		return Model{}, ErrNotLoaded
	}
	m, err := t.Resolve(name, want)
	if err == nil || !c.opts.UnknownIsDefault {
		return m, err
	}
	if notFound, ok := errors.AsType[*NotFoundError](err); ok && len(notFound.Suggestions) == 0 {
		if m, err = t.Resolve(defaultName, want); err == nil {
			m.Match = matchFallback
		}
	}
	return m, err
}

// Table returns the current table, or nil before the first successful Load. A
// table never changes: the Catalog replaces it by another.
func (c *Catalog) Table() *Table { return c.table.Load() }

// Health returns the current state, without I/O.
func (c *Catalog) Health() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health
}

func (c *Catalog) noteFile(err error) error {
	return c.note(err, &c.health.Err, &c.health.ErrAt, "model mappings cannot be loaded; the last valid ones stay in use", "model mappings are valid again")
}

func (c *Catalog) noteFeed(err error) error {
	return c.note(err, &c.health.FeedErr, &c.health.FeedErrAt, "model feed failed; its last good response stays in use", "model feed works again")
}

func (c *Catalog) noteRegistry(err error) error {
	return c.note(err, &c.health.RegistryErr, &c.health.RegistryErrAt, "model registry failed; its last good response stays in use", "model registry works again")
}

// note stores an error, or its end, in a field of health. It logs only what is
// different from before. It returns err.
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
