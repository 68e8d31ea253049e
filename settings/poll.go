package settings

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	pollInterval = time.Second
	// commitLag is how long after the time in updated_at, which is that of the
	// statement, a change may become visible, and a poll may look: the server
	// ends a statement after 5 s, COMMIT follows at once, and a poll takes at
	// most maxStale.
	commitLag = 6*time.Second + maxStale
	// maxChanges is how many changes a poll reads; when there are more,
	// everything is invalidated.
	maxChanges = 20_000
	// sweepBatch is how many entries a poll looks at for those that are too
	// old: a bound on how long it holds the lock.
	sweepBatch = 5000
)

// run is [Store.Run].
func (c *cache) run(ctx context.Context) {
	failing := false
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		if !failing && c.isIdle() {
			return pollInterval
		}
		err := c.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return 0
		case err != nil && !failing:
			c.logger.WarnContext(ctx, "settings: cannot read what has changed; each request reads the database", "error", err)
		case err == nil && failing:
			c.logger.InfoContext(ctx, "settings: the cache is up to date again")
		}
		failing = err != nil
		return pollInterval
	})
}

// isIdle reports whether every entry is older than maxAge and none is being read.
// It then removes some of those that are too old for an outage.
func (c *cache) isIdle() bool {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) > 0 || now.Sub(c.asked) < maxAge {
		return false
	}
	c.sweep(now)
	return true
}

// poll invalidates what has changed since the last one that succeeded, and
// removes entries that are too old to be used. Two seconds without one that
// succeeded, and every get asks.
func (c *cache) poll(ctx context.Context) error {
	begun := c.now()
	// What comes later than this confirms nothing any more.
	ctx, cancel := context.WithTimeout(ctx, maxStale)
	defer cancel()
	changes, err := c.changed(ctx, c.window(begun), maxChanges+1)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(changes) > maxChanges {
		clear(c.entries)
		clear(c.calls)
	}
	for user, v := range changes {
		if e := c.entries[user]; e != nil && !e.row.equal(v) {
			delete(c.entries, user)
		}
		delete(c.calls, user) // it may have read the row before
	}
	c.sweep(begun)
	if begun.After(c.polled) {
		c.polled = begun
	}
	c.failure = failure{}
	return nil
}

// window is how far back a poll looks: to the last one that succeeded, and
// commitLag more. What happened before maxAge matters to no entry, since none
// that old is used.
func (c *cache) window(now time.Time) time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return min(max(now.Sub(c.polled), 0), maxAge) + commitLag
}

// sweep removes some of the entries that are too old. Iteration over a map
// begins at random, so each is found sooner or later.
func (c *cache) sweep(now time.Time) {
	left := sweepBatch
	for user, e := range c.entries {
		if now.Sub(e.at) >= maxOutageAge {
			delete(c.entries, user)
		}
		if left--; left == 0 {
			return
		}
	}
}

// changed returns the users whose rows have changed since then, at most limit.
func (s *Store) changed(ctx context.Context, since time.Duration, limit int) (map[string]rowVersion, error) {
	return sqldb.Read(ctx, s.db, "settings.changed", func(tx *sqldb.Tx) (map[string]rowVersion, error) {
		var rows []struct {
			UserID    string     `db:"user_id"`
			Version   int64      `db:"version"`
			UpdatedAt sqldb.Time `db:"updated_at"`
		}
		if err := tx.Select(&rows, changed, -since.Seconds(), limit); err != nil {
			return nil, err
		}
		versions := make(map[string]rowVersion, len(rows))
		for _, r := range rows {
			versions[r.UserID] = rowVersion{r.Version, r.UpdatedAt.Time}
		}
		return versions, nil
	})
}
