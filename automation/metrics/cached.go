package metrics

import (
	"context"
	"sync"
	"time"
)

// cached holds an answer of the database for maxAge. An error is cached as
// well, so that a failing database is not queried more often than a healthy one.
type cached[T any] struct {
	now    func() time.Time
	maxAge time.Duration
	fetch  func(context.Context) (T, error)

	mu        sync.Mutex // not held while fetching
	fetchedAt time.Time
	value     T
	err       error
	inFlight  chan struct{} // closed when the running fetch has ended
}

// get returns the value or the error of the last fetch. Concurrent callers
// share one fetch.
func (c *cached[T]) get(ctx context.Context) (T, error) {
	c.mu.Lock()
	if !c.fetchedAt.IsZero() && c.now().Sub(c.fetchedAt) < c.maxAge {
		defer c.mu.Unlock()
		return c.value, c.err
	}
	done := c.inFlight
	if done == nil {
		done = make(chan struct{})
		c.inFlight = done
		c.mu.Unlock()
		v, err := c.fetch(ctx)
		c.mu.Lock()
		c.fetchedAt, c.value, c.err, c.inFlight = c.now(), v, err, nil
		close(done)
		defer c.mu.Unlock()
		return v, err
	}
	c.mu.Unlock()
	select {
	case <-done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.value, c.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
