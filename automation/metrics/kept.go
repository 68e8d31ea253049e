package metrics

import (
	"context"
	"sync"
	"time"
)

// kept is an answer of the database that serves for a while; so does an error,
// so that a database in trouble is not asked more often than one that is well.
type kept[T any] struct {
	now    func() time.Time
	serves time.Duration
	ask    func(context.Context) (T, error)

	mu      sync.Mutex // not held over the question
	at      time.Time
	value   T
	err     error
	waiting chan struct{} // closed when the question that is out has its answer
}

// get returns the answer, or the error that came instead. Those who come
// together ask once.
func (k *kept[T]) get(ctx context.Context) (T, error) {
	k.mu.Lock()
	if !k.at.IsZero() && k.now().Sub(k.at) < k.serves {
		defer k.mu.Unlock()
		return k.value, k.err
	}
	wait := k.waiting
	if wait == nil {
		wait = make(chan struct{})
		k.waiting = wait
		k.mu.Unlock()
		v, err := k.ask(ctx)
		k.mu.Lock()
		k.at, k.value, k.err, k.waiting = k.now(), v, err, nil
		close(wait)
		defer k.mu.Unlock()
		return v, err
	}
	k.mu.Unlock()
	select {
	case <-wait:
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.value, k.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
