package settings

import (
	"context"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	// every is the pause between two looks, give or take a tenth, so that
	// replicas do not ask in step.
	every = time.Second
	// latest is how long after the time in updated_at, which is that of the
	// statement, a change may show: the server ends a statement, an idle
	// transaction and a COMMIT after 5 s each.
	latest = 15 * time.Second
	// window is how far back each look goes. A change that matters to an entry
	// showed after the entry was read, so less than a lifetime ago. That holds
	// after any number of looks that failed, and needs no place to go on from.
	window = lifetime + latest
	// burst is how many changes a look takes in; with more, everything goes.
	burst = 5000
)

// Run looks every second at what has changed until ctx ends, and returns nil
// then. A look that fails is logged once, and so is the first that works again.
func (c *Cache) Run(ctx context.Context) error {
	failing := false
	for {
		err := c.Poll(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			c.logger.WarnContext(ctx, "settings: cannot see what has changed; asking the database for each request", "error", err)
		case err == nil && failing:
			c.logger.InfoContext(ctx, "settings: the cache is up to date again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every - every/10 + rand.N(every/5)):
		}
	}
}

// Poll looks once at what has changed, and drops it, along with what is past its
// lifetime. Two seconds without a Poll that worked, and every Get asks.
func (c *Cache) Poll(ctx context.Context) error {
	begun := c.now()
	// What comes later than this confirms nothing any more.
	ctx, cancel := context.WithTimeout(ctx, trust)
	defer cancel()
	changes, err := c.changed(ctx, window, burst+1)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(changes) > burst {
		clear(c.entries)
		clear(c.flights)
	}
	for user, m := range changes {
		if e := c.entries[user]; e != nil && !e.mark.is(m) {
			delete(c.entries, user)
		}
		delete(c.flights, user) // it may have read the row before
	}
	maps.DeleteFunc(c.entries, func(_ string, e *entry) bool { return begun.Sub(e.at) >= lifetime })
	if begun.After(c.polled) {
		c.polled = begun
	}
	return nil
}

func (m mark) is(o mark) bool { return m.version == o.version && m.updatedAt.Equal(o.updatedAt) }

// changed returns the users whose rows have changed since then, at most so many.
func (s *Store) changed(ctx context.Context, since time.Duration, most int) (map[string]mark, error) {
	return sqldb.Read(ctx, s.db, "settings.changed", func(tx *sqldb.Tx) (map[string]mark, error) {
		var rows []struct {
			UserID    string     `db:"user_id"`
			Version   int64      `db:"version"`
			UpdatedAt sqldb.Time `db:"updated_at"`
		}
		if err := tx.Select(&rows, changed, -since.Seconds(), most); err != nil {
			return nil, err
		}
		marks := make(map[string]mark, len(rows))
		for _, r := range rows {
			marks[r.UserID] = mark{r.Version, r.UpdatedAt.Time}
		}
		return marks, nil
	})
}
