package replica

import (
	"sync"
	"time"
)

// Counter counts the requests of the last minute, in steps of ten seconds. It is
// safe for concurrent use.
type Counter struct {
	now func() time.Time

	mu    sync.Mutex
	steps [7]step // six whole steps and the current one
}

type step struct {
	number int64 // of ten-second steps since 1970
	Rates
}

const stepLength = 10 * time.Second

// NewCounter returns a Counter that reads the given clock.
func NewCounter(now func() time.Time) *Counter { return &Counter{now: now} }

// Add counts one request.
func (c *Counter) Add(failed, becauseOfNode bool) {
	number := c.now().UnixNano() / int64(stepLength)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.steps[number%int64(len(c.steps))]
	if s.number != number {
		*s = step{number: number}
	}
	s.Requests++
	if failed {
		s.Failures++
	}
	if becauseOfNode {
		s.NodeFailures++
	}
}

// Rates returns the counts of the last minute, give or take a step.
func (c *Counter) Rates() Rates {
	number := c.now().UnixNano() / int64(stepLength)
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum Rates
	for _, s := range c.steps {
		if s.number > number-int64(len(c.steps)) {
			sum.Requests += s.Requests
			sum.Failures += s.Failures
			sum.NodeFailures += s.NodeFailures
		}
	}
	return sum
}
