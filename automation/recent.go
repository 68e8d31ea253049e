package automation

import (
	"fmt"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// recentFaults counts the requests of the last one to two minutes that automation
// acted on, and how many of them failed for a reason that other replicas may not
// share: this process, its connections or its host.
type recentFaults struct {
	mu                sync.Mutex
	began             time.Time // of the current window
	current, previous faultCount
}

type faultCount struct{ ended, failed int } // failed is a part of ended

const (
	faultWindow = time.Minute
	// A replica is not well if at least this many requests, and at least half of
	// all, have failed for such a reason.
	minFaults = 5
)

// add counts one request. It ignores requests that say nothing about this replica.
func (r *recentFaults) add(at time.Time, o outcome.Outcome) {
	if o.Skipped || o.Cause == outcome.Client || o.Cause == outcome.ClientLeft {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rotate(at)
	r.current.ended++
	switch o.Cause {
	case outcome.Internal, outcome.Host, outcome.Database, outcome.Node:
		r.current.failed++
	}
}

// rotate begins a new window if the current one is over.
func (r *recentFaults) rotate(at time.Time) {
	switch elapsed := at.Sub(r.began); {
	case elapsed >= 2*faultWindow:
		r.began, r.current, r.previous = at, faultCount{}, faultCount{}
	case elapsed >= faultWindow:
		r.began, r.current, r.previous = at, faultCount{}, r.current
	}
}

// component returns the health of this replica's recent requests.
func (r *recentFaults) component(at time.Time) Component {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rotate(at)
	ended, failed := r.current.ended+r.previous.ended, r.current.failed+r.previous.failed
	if failed < minFaults || failed < ended-failed {
		return Component{OK: true}
	}
	return Component{Detail: fmt.Sprintf("%d of the last %d requests failed on this replica", failed, ended)}
}
