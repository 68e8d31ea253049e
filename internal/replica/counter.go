package replica

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Counter counts the requests of the last minute, in steps of ten seconds, and
// how requests ended since the last Take. It is safe for concurrent use.
type Counter struct {
	mu       sync.Mutex
	rates    recent[Rates]
	activity map[activityKey]*Activity
}

type activityKey struct{ kind, cause string }

// Period is the time that a row of automation_activity covers.
const Period = 10 * time.Minute

// Activity counts the requests of one kind that ended with one cause.
type Activity struct {
	Kind         string `json:"kind" db:"kind"`         // chat or api
	Cause        string `json:"cause" db:"cause"`       // of package automation/outcome
	Evidence     string `json:"evidence" db:"evidence"` // what the cause says about the feature: none, success, failure, shared, compared
	Requests     int64  `json:"requests" db:"requests"`
	Slow         int64  `json:"slow" db:"slow"`             // latency above the host's usual P95
	DatabaseSlow int64  `json:"database_slow" db:"db_slow"` // database time above its usual P95
	LatencyUS    int64  `json:"latency_us" db:"latency_us"` // sum of the latencies, in microseconds
	DatabaseUS   int64  `json:"database_us" db:"db_us"`     // sum of the database times, in microseconds
}

// NewCounter returns a Counter that reads the given clock.
func NewCounter(now func() time.Time) *Counter {
	return &Counter{rates: newRecent[Rates](time.Minute, now), activity: map[activityKey]*Activity{}}
}

// AddActivity adds the counts of one request, or of several with the same cause.
func (c *Counter) AddActivity(a Activity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := activityKey{a.Kind, a.Cause}
	sum := c.activity[key]
	if sum == nil {
		sum = &Activity{Kind: a.Kind, Cause: a.Cause, Evidence: a.Evidence}
		c.activity[key] = sum
	}
	sum.Requests += a.Requests
	sum.Slow += a.Slow
	sum.DatabaseSlow += a.DatabaseSlow
	sum.LatencyUS += a.LatencyUS
	sum.DatabaseUS += a.DatabaseUS
}

// Take removes and returns the activity since its last call, sorted by kind and cause.
func (c *Counter) Take() []Activity {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Activity, 0, len(c.activity))
	for _, a := range c.activity {
		list = append(list, *a)
	}
	clear(c.activity)
	slices.SortFunc(list, func(a, b Activity) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Cause, b.Cause)) })
	return list
}

// Add counts one request that ended now.
func (c *Counter) Add(failed, nodeFailed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rates.current()
	r.Requests++
	if failed {
		r.Failures++
	}
	if nodeFailed {
		r.NodeFailures++
	}
}

// Rates returns the counts of the last minute, exact to one step.
func (c *Counter) Rates() (sum Rates) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rates.each(func(r Rates) {
		sum.Requests += r.Requests
		sum.Failures += r.Failures
		sum.NodeFailures += r.NodeFailures
	})
	return sum
}
