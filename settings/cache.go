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
	// maxStale is how long an entry may be used without a poll that confirms
	// it. It bounds how late the writes of other replicas are visible.
	maxStale = 2 * time.Second
	// maxAge is how long an entry may be used at all while the database
	// answers. It bounds how late the changes are visible that no poll finds.
	maxAge = 30 * time.Second
	// maxOutageAge is how long an entry may be used while the database is
	// unavailable.
	maxOutageAge = 10 * time.Minute
	// readTimeout is the default of StoreOptions.ReadTimeout: a request must
	// not wait for a database that hangs.
	readTimeout = time.Second
	// failureTTL is how long after a failed read no other read is tried.
	failureTTL = 500 * time.Millisecond
)

// cache holds the settings that were read recently. The package's comment says
// how old its results can be.
type cache struct {
	size   int
	wait   time.Duration // how long a caller waits for the database at most
	logger *slog.Logger
	now    func() time.Time

	find    func(ctx context.Context, user string) (record, error)
	changed func(ctx context.Context, period time.Duration, limit int) (map[string]rowVersion, error)

	mu sync.RWMutex // never held over I/O
	// When there are too many entries, a random one is removed. Entries are
	// mostly removed for their age, so an order by use is not worth its cost.
	entries  map[string]*entry
	calls    map[string]*call
	lastRead time.Time // when the last read began
	polled   time.Time // when the last successful poll began
	failure  failure
}

type entry struct {
	record
	at time.Time // when the read began
}

// failure is the state of the database according to the last read of any user.
type failure struct {
	err       error // nil: the database answers
	at        time.Time
	isProbing bool // one caller tries the database again; the others do not wait
}

// call is one read of a user's settings, for which any number of callers wait.
// Once invalidate or a poll has removed it from cache.calls, its result may be
// outdated.
type call struct {
	done       chan struct{} // closed when the fields below are set
	record     record
	err        error
	isCanceled bool // the context of the caller who reads ended
}

// newCache returns an empty cache for s. o must be complete.
func newCache(s *Store, o StoreOptions) *cache {
	return &cache{size: o.CacheSize, wait: o.ReadTimeout, logger: o.Logger, now: o.Now, find: s.find, changed: s.changed,
		entries: map[string]*entry{}, calls: map[string]*call{}}
}

// get implements [Store.GetCached].
func (c *cache) get(ctx context.Context, user string) (Settings, error) {
	c.mu.RLock()
	e, polled := c.entries[user], c.polled
	c.mu.RUnlock()
	if e != nil && e.isFresh(c.now(), polled) {
		return e.Settings, nil
	}
	readCtx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	s, err := c.read(readCtx, user)
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

// isFresh reports whether e may be used without a query. polled is when the last
// successful poll began.
func (e *entry) isFresh(now, polled time.Time) bool {
	age := now.Sub(e.at)
	return age < maxStale || age < maxAge && now.Sub(polled) < maxStale
}

// read reads the user's settings from the database, or waits for another caller's
// read of them.
func (c *cache) read(ctx context.Context, user string) (Settings, error) {
	for {
		k, isOther, err := c.join(user)
		if err != nil {
			return Settings{}, err
		}
		if !isOther {
			c.fetch(ctx, strings.Clone(user), k) // user may be a part of a large request
		}
		select {
		case <-k.done:
			if k.err == nil {
				return k.record.Settings, nil
			}
			if isOther && k.isCanceled && ctx.Err() == nil {
				continue // the other caller's context ended, ours did not
			}
			return Settings{}, k.err
		case <-ctx.Done():
			return Settings{}, fmt.Errorf("settings.get: %w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// join returns the call that reads the user's settings. isOther is false if it is
// new, so that the caller must fetch. If a read has just failed, join returns the
// error of that read.
func (c *cache) join(user string) (k *call, isOther bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.failure
	if f.err != nil && (f.isProbing || c.now().Sub(f.at) < failureTTL) {
		return nil, false, f.err
	}
	if k, ok := c.calls[user]; ok {
		return k, true, nil
	}
	f.isProbing = f.err != nil
	k = &call{done: make(chan struct{})}
	c.calls[user] = k
	c.lastRead = c.now()
	return k, false, nil
}

// fetch reads the user's settings from the database and completes k. It caches
// them unless k has been removed from calls meanwhile.
func (c *cache) fetch(ctx context.Context, user string, k *call) {
	at := c.now()
	k.err = errors.New("settings.get: the read panicked") // replaced when find returns
	defer func() {
		// A deadline before c.wait was that of the caller, not of the read.
		k.isCanceled = errors.Is(ctx.Err(), context.Canceled) || ctx.Err() != nil && c.now().Sub(at) < c.wait
		c.mu.Lock()
		if c.calls[user] == k {
			delete(c.calls, user)
			if k.err == nil {
				c.add(user, &entry{k.record, at})
			}
		}
		_, isInvalid := errors.AsType[*InvalidError](k.err)
		switch {
		case k.isCanceled, isInvalid: // this says nothing about the database
			c.failure.isProbing = false
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

// add caches an entry, and removes another if there are too many.
func (c *cache) add(user string, e *entry) {
	if _, ok := c.entries[user]; !ok && len(c.entries) >= c.size {
		for other := range c.entries {
			delete(c.entries, other)
			break
		}
	}
	c.entries[user] = e
}

// invalidate makes the next get read the database. A read under way may not have
// seen the change, so no more callers join it, and its result is not cached.
func (c *cache) invalidate(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, user)
	delete(c.calls, user)
}
