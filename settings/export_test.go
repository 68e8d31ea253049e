package settings

import (
	"context"
	"fmt"
	"time"
)

// NewFilledCache returns a cache that holds the given number of users.
func NewFilledCache(users int, now time.Time) any {
	c := newCache(&Store{}, StoreOptions{CacheSize: users}.withDefaults())
	for i := range users {
		user := fmt.Sprintf("user-%08d", i)
		c.add(user, &entry{record{Settings{UserID: user, SessionDuration: time.Hour, Version: 1, CreatedAt: now, UpdatedAt: now}, rowVersion{1, now}}, now})
	}
	return c
}

// SetTimeout sets how long a transaction may take.
func (o *StoreOptions) SetTimeout(d time.Duration) { o.timeout = d }

// Poll runs one poll for changes.
func (s *Store) Poll(ctx context.Context) error { return s.cache.poll(ctx) }

// Defaults returns the defaults that the store uses.
func (s *Store) Defaults() Defaults { return s.defaults }
