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
	// readTimeout is how long a get waits for the database, unless stated
	// otherwise: a request must not wait for one that hangs.
	readTimeout = time.Second
	// failureTTL is how long after a failed read no other asks again.
	failureTTL = 500 * time.Millisecond
)

// cache holds what was read lately. The package's comment says how old its
// answers can be.
type cache struct {
	size   int
	wait   time.Duration // of a caller for the database
	logger *slog.Logger
	now    func() time.Time

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
	probing bool // one caller queries again; the others need not wait for it
}

// call is one read of a user's settings that any number of callers wait for.
// One that is no longer in cache.calls may have read what is outdated now.
type call struct {
	done     chan struct{} // closed when the rest is set
	record   record
	err      error
	canceled bool // by the context of the caller who reads
}

// newCache returns an empty cache of what s reads; o is complete.
func newCache(s *Store, o StoreOptions) *cache {
	return &cache{size: o.CacheSize, wait: o.ReadTimeout, logger: o.Logger, now: o.Now, find: s.find, changed: s.changed,
		entries: map[string]*entry{}, calls: map[string]*call{}}
}

// get is [Store.GetCached].
func (c *cache) get(ctx context.Context, user string) (Settings, error) {
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
func (c *cache) read(ctx context.Context, user string) (Settings, error) {
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
func (c *cache) join(user string) (_ *call, joined bool, err error) {
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
func (c *cache) fetch(ctx context.Context, user string, k *call) {
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

func (c *cache) add(user string, e *entry) {
	if _, ok := c.entries[user]; !ok && len(c.entries) >= c.size {
		for other := range c.entries {
			delete(c.entries, other)
			break
		}
	}
	c.entries[user] = e
}

// invalidate makes the next get ask. A read under way may have missed what has
// changed, so nobody else joins it, and it is not kept.
func (c *cache) invalidate(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, user)
	delete(c.calls, user)
}
