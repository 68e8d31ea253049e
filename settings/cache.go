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
	// maxStale is how old an entry may be that no poll has confirmed: the
	// promise on the writes of other replicas.
	maxStale = 2 * time.Second
	// maxAge bounds what no poll can find, such as EraseUser.
	maxAge = 30 * time.Second
	// maxOutageAge is how old an entry may be that serves while the database
	// is away.
	maxOutageAge = 10 * time.Minute
	// readTimeout is how long a Get waits for the database, unless stated
	// otherwise: a request must not wait for one that hangs.
	readTimeout = time.Second
	// failureTTL is how long after a failed read no Get asks again.
	failureTTL = 500 * time.Millisecond
)

// CacheOptions of a Cache. The zero value works.
type CacheOptions struct {
	// Size is the most users whose settings it holds, about 220 bytes each; 0
	// means 100,000.
	Size int
	// ReadTimeout is how long a Get waits for the database; 0 means 1 s.
	ReadTimeout time.Duration
	Logger      *slog.Logger     // nil discards
	Now         func() time.Time // nil means time.Now
}

// Cache is a Store with a memory, for the path of requests. It is safe for
// concurrent use. The package's comment says how old its answers can be;
// without [Cache.Run] they are two seconds old at most, and cost a query as often.
type Cache struct {
	store  *Store
	size   int
	wait   time.Duration // of a Get for the database
	logger *slog.Logger
	now    func() time.Time

	// The store's reads, which tests replace.
	find    func(ctx context.Context, user string) (record, error)
	changed func(ctx context.Context, since time.Duration, limit int) (map[string]rowVersion, error)

	mu sync.RWMutex // never held over I/O
	// entries are bounded by their age first, so what to remove when there are
	// too many is not worth a list in order of use: any one goes.
	entries map[string]*entry
	calls   map[string]*call
	asked   time.Time // when the last read began
	polled  time.Time // when the last poll that succeeded began
	failure failure   // of the database, as the last read found it
}

type entry struct {
	record
	at time.Time // when the read began
}

// failure is what a read of any user found: the database is one for all.
type failure struct {
	err     error // nil: the database answers
	at      time.Time
	probing bool // one Get queries again; the others need not wait for it
}

// call is one read of a user's settings that any number of callers wait for.
// One that is no longer in Cache.calls may have read what is outdated now.
type call struct {
	done     chan struct{} // closed when the rest is set
	record   record
	err      error
	canceled bool // by the context of the caller who reads
}

// NewCache returns an empty cache. It shows writes made through it at once, and
// others, those made through store included, as those of other replicas.
func NewCache(store *Store, o CacheOptions) *Cache {
	if o.Size <= 0 {
		o.Size = 100_000
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = readTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Cache{store: store, size: o.Size, wait: o.ReadTimeout, logger: o.Logger, now: o.Now, find: store.find, changed: store.changed,
		entries: map[string]*entry{}, calls: map[string]*call{}}
}

// Get returns what holds for a user, as [Store.Get] does. Callers who come
// together for one user cause one query, for which they wait ReadTimeout at most. While
// the database is away the answer is what was read within the last ten
// minutes, or an [ErrUnavailable]: never the defaults.
func (c *Cache) Get(ctx context.Context, user string) (Settings, error) {
	c.mu.RLock()
	e, polled := c.entries[user], c.polled
	c.mu.RUnlock()
	if e != nil && e.isFresh(c.now(), polled) {
		return e.Settings, nil
	}
	ask, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	s, err := c.read(ask, user)
	if errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		c.mu.RLock()
		e := c.entries[user]
		c.mu.RUnlock()
		if e != nil && c.now().Sub(e.at) < maxOutageAge {
			return e.Settings, nil
		}
	}
	return s, err
}

// isFresh reports whether e can be used without a query.
func (e *entry) isFresh(now, polled time.Time) bool {
	age := now.Sub(e.at)
	return age < maxStale || age < maxAge && now.Sub(polled) < maxStale
}

// read reads through, or waits for the caller who does.
func (c *Cache) read(ctx context.Context, user string) (Settings, error) {
	for {
		k, joined, err := c.join(user)
		if err != nil {
			return Settings{}, err
		}
		if !joined {
			c.fetch(ctx, strings.Clone(user), k) // user may be a part of a large request
		}
		select {
		case <-k.done:
			if k.err == nil {
				return k.record.Settings, nil
			}
			if joined && k.canceled && ctx.Err() == nil {
				continue // the other caller left
			}
			return Settings{}, k.err
		case <-ctx.Done():
			return Settings{}, fmt.Errorf("settings.get: %w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// join returns the user's call, and whether another caller makes it. The error
// is that of a read that failed a moment ago.
func (c *Cache) join(user string) (_ *call, joined bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.failure
	if f.err != nil && (f.probing || c.now().Sub(f.at) < failureTTL) {
		return nil, false, f.err
	}
	if k, ok := c.calls[user]; ok {
		return k, true, nil
	}
	f.probing = f.err != nil
	k := &call{done: make(chan struct{})}
	c.calls[user] = k
	c.asked = c.now()
	return k, false, nil
}

// fetch reads, and keeps what it found unless a write came in between.
func (c *Cache) fetch(ctx context.Context, user string, k *call) {
	at := c.now()
	k.err = errors.New("settings.get: the read panicked") // unless it returns
	defer func() {
		k.canceled = errors.Is(ctx.Err(), context.Canceled) || ctx.Err() != nil && c.now().Sub(at) < c.wait
		c.mu.Lock()
		if c.calls[user] == k {
			delete(c.calls, user)
			if k.err == nil {
				c.add(user, &entry{k.record, at})
			}
		}
		_, invalid := errors.AsType[*InvalidError](k.err)
		switch {
		case k.canceled, invalid: // nobody knows more than before
			c.failure.probing = false
		case errors.Is(k.err, ErrUnavailable):
			c.failure = failure{err: k.err, at: c.now()}
		default:
			c.failure = failure{}
		}
		c.mu.Unlock()
		close(k.done)
	}()
	k.record, k.err = c.find(ctx, user)
}

func (c *Cache) add(user string, e *entry) {
	if _, ok := c.entries[user]; !ok && len(c.entries) >= c.size {
		for other := range c.entries {
			delete(c.entries, other)
			break
		}
	}
	c.entries[user] = e
}

// invalidate makes the next Get ask. A read under way may have missed what has
// changed, so nobody else joins it, and it is not kept.
func (c *Cache) invalidate(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, user)
	delete(c.calls, user)
}

// Put is [Store.Put], and shows at once.
func (c *Cache) Put(ctx context.Context, user string, v Values, cond Condition) (Settings, error) {
	defer c.invalidate(user) // also after an error: it may have been applied
	return c.store.Put(ctx, user, v, cond)
}

// Patch is [Store.Patch], and shows at once.
func (c *Cache) Patch(ctx context.Context, user string, ch Change, cond Condition) (Settings, error) {
	defer c.invalidate(user)
	return c.store.Patch(ctx, user, ch, cond)
}

// Delete is [Store.Delete], and shows at once.
func (c *Cache) Delete(ctx context.Context, user string, cond Condition) (Settings, error) {
	defer c.invalidate(user)
	return c.store.Delete(ctx, user, cond)
}

// EraseUser is [Store.EraseUser]. It shows here at once; other replicas may use
// what they know for 30 seconds more, and hold it in memory for ten minutes.
func (c *Cache) EraseUser(ctx context.Context, user string) error {
	defer c.invalidate(user)
	return c.store.EraseUser(ctx, user)
}
