package settings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// trust is how long a look at the database confirms what it did not find
	// changed: the promise on the writes of other replicas.
	trust = 2 * time.Second
	// lifetime bounds what no look can find, such as Forget.
	lifetime = 30 * time.Second
)

// CacheOptions of a Cache. The zero value works.
type CacheOptions struct {
	// Size is how many users' settings it holds at most, about 300 bytes each.
	// 0 means 10,000.
	Size   int
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil means time.Now
}

// Cache is a Store with a memory, for the path of requests. It is safe for
// concurrent use. How old its answers can be is told in the package's comment;
// without [Cache.Run] they are two seconds old at most, and cost a query as often.
type Cache struct {
	store  *Store
	size   int
	logger *slog.Logger
	now    func() time.Time

	// The store's reads, which tests hold up.
	find    func(ctx context.Context, user string) (record, error)
	changed func(ctx context.Context, since time.Duration, most int) (map[string]mark, error)

	mu sync.RWMutex // never held over I/O
	// entries are bounded by their lifetime first, so what to remove when there
	// are too many is not worth a list in order of use: any one goes.
	entries map[string]*entry
	flights map[string]*flight
	polled  time.Time // when the last look at what changed began
}

type entry struct {
	record
	at time.Time // when the read began
}

// flight is one read of a user's settings that any number of callers wait for.
// One that is no longer in Cache.flights may have read what is outdated now.
type flight struct {
	done   chan struct{} // closed when the rest is set
	record record
	err    error
	gaveUp bool // the caller who flew it went away
}

// NewCache makes an empty cache. It shows a write at once if that goes through
// it, and those of others, through store included, as those of other replicas.
func NewCache(store *Store, o CacheOptions) *Cache {
	if o.Size <= 0 {
		o.Size = 10_000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Cache{store: store, size: o.Size, logger: o.Logger, now: o.Now, find: store.find, changed: store.changed,
		entries: map[string]*entry{}, flights: map[string]*flight{}}
}

// Get returns what holds for a user, as [Store.Get] does. Callers who come
// together for one user cause one query, for which they wait two seconds at most.
func (c *Cache) Get(ctx context.Context, user string) (Settings, error) {
	c.mu.RLock()
	e, polled := c.entries[user], c.polled
	c.mu.RUnlock()
	if e != nil && e.holds(c.now(), polled) {
		return e.Settings, nil
	}
	return c.load(ctx, user)
}

// holds tells whether e can be used without asking.
func (e *entry) holds(now, polled time.Time) bool {
	age := now.Sub(e.at)
	return age < trust || age < lifetime && now.Sub(polled) < trust
}

// patience is how long a Get waits for the database: a request's path is no
// place to wait for one that hangs.
const patience = 2 * time.Second

// load reads through, or waits for who is doing so.
func (c *Cache) load(ctx context.Context, user string) (Settings, error) {
	for {
		s, again, err := c.try(ctx, user)
		if !again {
			return s, err
		}
	}
}

// try is load once; again says that another's deadline ended it, not ours.
func (c *Cache) try(ctx context.Context, user string) (s Settings, again bool, err error) {
	ask, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.mu.Lock()
	f, joined := c.flights[user]
	if !joined {
		user = strings.Clone(user) // it may be a part of a large request
		f = &flight{done: make(chan struct{})}
		c.flights[user] = f
	}
	c.mu.Unlock()
	if !joined {
		c.fly(ask, user, f)
	}
	select {
	case <-f.done:
		if f.err == nil {
			return f.record.Settings, false, nil
		}
		if joined && f.gaveUp && ctx.Err() == nil {
			return s, true, nil
		}
		err = f.err
	case <-ask.Done():
		err = fmt.Errorf("settings.get: %w: %w", ErrUnavailable, ask.Err())
	}
	if errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		c.mu.RLock()
		e := c.entries[user]
		c.mu.RUnlock()
		if e != nil {
			return e.Settings, false, nil
		}
	}
	return s, false, err
}

// fly makes the read and keeps what it found, unless a write came in between.
func (c *Cache) fly(ctx context.Context, user string, f *flight) {
	at := c.now()
	f.err = errors.New("settings.get: the read panicked") // unless it returns
	defer func() {
		f.gaveUp = ctx.Err() != nil
		c.mu.Lock()
		if c.flights[user] == f {
			delete(c.flights, user)
			if f.err == nil {
				c.keep(user, &entry{f.record, at})
			}
		}
		c.mu.Unlock()
		close(f.done)
	}()
	f.record, f.err = c.find(ctx, user)
}

func (c *Cache) keep(user string, e *entry) {
	if _, ok := c.entries[user]; !ok && len(c.entries) >= c.size {
		for other := range c.entries {
			delete(c.entries, other)
			break
		}
	}
	c.entries[user] = e
}

// drop makes the next Get ask. A read under way may have missed what has
// changed, so nobody else joins it, and it is not kept.
func (c *Cache) drop(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, user)
	delete(c.flights, user)
}

// Put is [Store.Put], and shows at once.
func (c *Cache) Put(ctx context.Context, user string, v Values, cond Condition) (Settings, error) {
	defer c.drop(user) // whatever comes out: an error may have been applied
	return c.store.Put(ctx, user, v, cond)
}

// Patch is [Store.Patch], and shows at once.
func (c *Cache) Patch(ctx context.Context, user string, ch Change, cond Condition) (Settings, error) {
	defer c.drop(user)
	return c.store.Patch(ctx, user, ch, cond)
}

// Delete is [Store.Delete], and shows at once.
func (c *Cache) Delete(ctx context.Context, user string, cond Condition) (Settings, error) {
	defer c.drop(user)
	return c.store.Delete(ctx, user, cond)
}

// Forget is [Store.Forget]. It shows here at once; other replicas may use what
// they know, and keep it in memory, for 30 seconds more.
func (c *Cache) Forget(ctx context.Context, user string) error {
	defer c.drop(user)
	return c.store.Forget(ctx, user)
}
