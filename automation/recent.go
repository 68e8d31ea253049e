package automation

import (
	"fmt"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// recentFaults counts, over the last one to two minutes, the requests that
// automation acted on and those that failed for something that other replicas
// may well not suffer: this process, its connections, its host.
type recentFaults struct {
	mu       sync.Mutex
	began    time.Time
	now, old faultCount
}

type faultCount struct{ ended, failed int }

const (
	faultWindow = time.Minute
	// A replica is not well when at least this many requests, and half of all,
	// have failed so.
	minFaults = 5
)

// add counts one request.
func (r *recentFaults) add(at time.Time, o outcome.Outcome) {
	if o.Skipped || o.Cause == outcome.Client || o.Cause == outcome.ClientLeft {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rotate(at)
	r.now.ended++
	switch o.Cause {
	case outcome.Internal, outcome.Host, outcome.Database, outcome.Node:
		r.now.failed++
	}
}

func (r *recentFaults) rotate(at time.Time) {
	switch passed := at.Sub(r.began); {
	case passed >= 2*faultWindow:
		r.began, r.now, r.old = at, faultCount{}, faultCount{}
	case passed >= faultWindow:
		r.began, r.now, r.old = at, faultCount{}, r.now
	}
}

// component reports how requests have fared of late.
func (r *recentFaults) component(at time.Time) Component {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rotate(at)
	ended, failed := r.now.ended+r.old.ended, r.now.failed+r.old.failed
	if failed < minFaults || failed < ended-failed {
		return Component{OK: true}
	}
	return Component{Detail: fmt.Sprintf("%d of the last %d requests failed on this replica", failed, ended)}
}
