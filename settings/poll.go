package settings

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	pollInterval = time.Second
	// commitLag is how long after its updated_at a poll may first see a change:
	// updated_at is the time of the statement, which the server ends after 5 s;
	// COMMIT follows within a second, and a poll takes at most maxStale.
	commitLag = 6*time.Second + maxStale
	// maxChanges is how many changes a poll reads; if there are more, it
	// invalidates all entries.
	maxChanges = 20_000
	// sweepBatch is how many entries one sweep examines. It bounds how long the
	// sweep holds the lock.
	sweepBatch = 5000
)

// run implements [Store.Run].
func (c *cache) run(ctx context.Context) {
	isFailing := false
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		if !isFailing && c.isIdle() {
			return pollInterval
		}
		err := c.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return 0
		case err != nil && !isFailing:
			c.logger.WarnContext(ctx, "settings: cannot poll for changes; each request reads the database", "error", err)
		case err == nil && isFailing:
			c.logger.InfoContext(ctx, "settings: the cache is up to date again")
		}
		isFailing = err != nil
		return pollInterval
	})
}

// isIdle reports whether every entry is older than maxAge and none is being read.
// If so, it also sweeps, because run does not poll then.
func (c *cache) isIdle() bool {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) > 0 || now.Sub(c.lastRead) < maxAge {
		return false
	}
	c.sweep(now)
	return true
}

// poll removes the entries that have changed since the last successful poll, and
// sweeps. After maxStale without a successful poll, every get reads the database.
func (c *cache) poll(ctx context.Context) error {
	start := c.now()
	// A result after maxStale would confirm no entry.
	ctx, cancel := context.WithTimeout(ctx, maxStale)
	defer cancel()
	changes, err := c.changed(ctx, c.window(start), maxChanges+1)
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
		delete(c.calls, user) // it may have read the row before the change
	}
	c.sweep(start)
	if start.After(c.polled) {
		c.polled = start
	}
	c.failure = failure{}
	return nil
}

// window returns the period whose changes a poll reads: since the last successful
// poll, but at most maxAge because no older entry is used, and commitLag more.
func (c *cache) window(now time.Time) time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return min(max(now.Sub(c.polled), 0), maxAge) + commitLag
}

// sweep examines up to sweepBatch entries and removes those that are older than
// maxOutageAge. Iteration over a map begins at random, so repeated sweeps reach
// all of them.
func (c *cache) sweep(now time.Time) {
	remaining := sweepBatch
	for user, e := range c.entries {
		if now.Sub(e.at) >= maxOutageAge {
			delete(c.entries, user)
		}
		if remaining--; remaining == 0 {
			return
		}
	}
}

// changed returns the row versions of the users whose rows have changed within
// the period until now, at most limit of them.
func (s *Store) changed(ctx context.Context, period time.Duration, limit int) (map[string]rowVersion, error) {
	return sqldb.Read(ctx, s.db, "settings.changed", func(tx *sqldb.Tx) (map[string]rowVersion, error) {
		var rows []struct {
			UserID    string     `db:"user_id"`
			Version   int64      `db:"version"`
			UpdatedAt sqldb.Time `db:"updated_at"`
		}
		if err := tx.Select(&rows, changed, -period.Seconds(), limit); err != nil {
			return nil, err
		}
		versions := make(map[string]rowVersion, len(rows))
		for _, r := range rows {
			versions[r.UserID] = rowVersion{r.Version, r.UpdatedAt.Time}
		}
		return versions, nil
	})
}
