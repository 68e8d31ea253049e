// Package retry has what every background loop needs to wait: a loop that can be
// triggered, a back-off, and a sleep that a context ends. Loop jitters its waits, so that
// replicas do not query the database at the same moments.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Trigger makes a Loop run at once instead of at its next interval.
type Trigger chan struct{}

// NewTrigger returns a Trigger for one Loop.
func NewTrigger() Trigger { return make(Trigger, 1) }

// Fire triggers the Loop. It never blocks; calls before the Loop runs count once.
func (t Trigger) Fire() {
	select {
	case t <- struct{}{}:
	default:
	}
}

// Loop calls fn until ctx ends. Between two calls it waits for the duration
// that fn returned, jittered, or for a value from trigger, which may be nil.
// A duration of 0 or less calls fn again at once.
func Loop(ctx context.Context, trigger <-chan struct{}, fn func(context.Context) time.Duration) {
	for ctx.Err() == nil {
		timer := time.NewTimer(Jitter(fn(ctx)))
		select {
		case <-timer.C:
		case <-trigger:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Sleep waits for d and returns nil, or returns the cause of ctx when ctx ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Jitter returns a random duration between 90 % and 110 % of d.
func Jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - d/10 + rand.N(d/5+1)
}

// Backoff returns how long to wait after that many failures in a row: first after one
// failure, doubled for each further failure, at most limit. The result is not jittered;
// pass it to Jitter or return it to Loop.
func Backoff(failures int, first, limit time.Duration) time.Duration {
	for d := first; ; d *= 2 {
		if failures <= 1 || d >= limit {
			return min(d, limit)
		}
		failures--
	}
}
