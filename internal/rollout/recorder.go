package rollout

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// Recorder receives the outcomes of requests that concern one rollout. It never
// waits for the database, and works whether there is a rollout or not.
type Recorder struct {
	name  string
	users userLimiter
	run   atomic.Pointer[runCounters] // of the stage run that is under way, or nil
}

// stageRun is one observation of one stage, from its beginning.
type stageRun struct {
	id           int64
	epoch, stage int
}

// runCounters count the outcomes of one stage run in this process.
type runCounters struct {
	stageRun
	name              string
	latency, database time.Duration // gates; 0 is none
	arms              [arms]counters
	flushed           [arms]Counts // what the database has; used by the controller alone

	mu      sync.Mutex
	pending map[userFailure]struct{} // not flushed yet
}

// userFailure is a user of the exposed arm one of whose requests failed, or was
// slow. It counts once a minute over all replicas, which the database sees to.
type userFailure struct {
	kind failureKind
	user [8]byte // a hash that differs from one stage run to the next
}

// failureKind is a kind of automation_rollout_failures.
type failureKind uint8

const (
	kindFailure failureKind = iota
	kindProvider
	kindSlow
	failureKinds
)

func (k failureKind) String() string { return [...]string{"failure", "provider", "slow"}[k] }

func (f userFailure) hash() string { return hex.EncodeToString(f.user[:]) }

// maxPending bounds the failing users of one flush. More would change no verdict.
const maxPending = 10_000

// counters are the atomic Counts of one arm. Of the exposed arm they have
// neither failures nor slow requests.
type counters struct {
	outcomes, failures, provider, slow, dbSlow, latency, db, shared, ignored atomic.Int64
	_                                                                        [56]byte // the arms do not share a cache line
}

// Sample is how one request ended.
type Sample struct {
	Arm     Arm // see ArmOf; a request of neither arm is not to be recorded
	Outcome Outcome
	// UserID bounds what one user contributes: at most 5 outcomes a minute and
	// replica, and of the exposed arm's failures at most one a minute over all
	// replicas. It is kept nowhere; the database has a hash for two hours.
	UserID string
	// Latency is how long the request took, as the plan means it, and
	// DatabaseTime how much of that was spent in the database. 0 or less is
	// not measured.
	Latency, DatabaseTime time.Duration
}

func newRecorder(name string) *Recorder {
	return &Recorder{name: name, users: userLimiter{seed: maphash.MakeSeed()}}
}

// Record counts how one request ended. It may be called from any goroutine, and
// allocates nothing for a success.
func (r *Recorder) Record(s Sample) {
	run := r.run.Load()
	if run == nil || s.Arm >= arms || s.Outcome >= outcomes {
		return
	}
	c := &run.arms[s.Arm]
	switch {
	case s.Outcome == OutcomeIgnored:
		c.ignored.Add(1)
		return
	case !r.users.allow(s.Arm, s.UserID):
		return
	case s.Outcome == OutcomeSharedFailure:
		c.shared.Add(1)
		return
	}
	if s.Latency > 0 {
		c.latency.Add(s.Latency.Microseconds())
	}
	if s.DatabaseTime > 0 {
		c.db.Add(s.DatabaseTime.Microseconds())
		if run.database > 0 && s.DatabaseTime > run.database {
			c.dbSlow.Add(1)
		}
	}
	kind := failureKinds
	switch {
	case s.Outcome == OutcomeFailure:
		kind = kindFailure
	case s.Outcome == OutcomeProviderFailure:
		kind = kindProvider
	case run.latency > 0 && s.Latency > run.latency:
		kind = kindSlow
	}
	if s.Arm == ArmExposed && kind != failureKinds {
		run.addPending(kind, s.UserID)
		return
	}
	c.outcomes.Add(1) // first, see counts
	switch kind {
	case kindFailure:
		c.failures.Add(1)
	case kindProvider:
		c.failures.Add(1)
		c.provider.Add(1)
	case kindSlow:
		c.slow.Add(1)
	case failureKinds:
	}
}

func (r *runCounters) addPending(kind failureKind, user string) {
	hash := sha256.New()
	_, _ = hash.Write([]byte(r.name))
	_, _ = hash.Write(binary.BigEndian.AppendUint64([]byte{0}, uint64(r.id))) //nolint:gosec // a stage run is numbered from 1
	_, _ = hash.Write([]byte(user))
	f := userFailure{kind: kind}
	copy(f.user[:], hash.Sum(nil))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = map[userFailure]struct{}{}
	}
	if len(r.pending) < maxPending {
		r.pending[f] = struct{}{}
	}
}

// takePending returns the failing users that are to be flushed; restorePending
// returns them where that did not succeed.
func (r *runCounters) takePending() map[userFailure]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.pending
	r.pending = nil
	return taken
}

func (r *runCounters) restorePending(taken map[userFailure]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.pending {
		taken[f] = struct{}{}
	}
	if len(taken) > 0 {
		r.pending = taken
	}
}

// counts returns the figures so far. Outcomes are read last, as they are
// counted first, so that there are never more failures than outcomes.
func (c *counters) counts() Counts {
	n := Counts{Failures: c.failures.Load(), ProviderFailures: c.provider.Load(), Slow: c.slow.Load(), DatabaseSlow: c.dbSlow.Load(),
		LatencyUS: c.latency.Load(), DatabaseUS: c.db.Load(), SharedFailures: c.shared.Load(), Ignored: c.ignored.Load()}
	n.Outcomes = c.outcomes.Load()
	return n
}

// observe makes the recorder count for a stage run; nil is none.
func (r *Recorder) observe(run *stageRun, p Plan) {
	switch c := r.run.Load(); {
	case run == nil:
		r.run.Store(nil)
	case c == nil || c.stageRun != *run:
		r.run.Store(&runCounters{stageRun: *run, name: r.name, latency: p.LatencyP95, database: p.DatabaseP95})
	}
}

// ArmOf returns the arm of a request by its flag's decision: users who have the
// feature are exposed, users outside the percentage are the control. Users whom
// the feature is kept from for another reason are in neither.
func ArmOf(d flags.Decision) (arm Arm, ok bool) {
	if d.On {
		return ArmExposed, true
	}
	return ArmControl, d.Reason == flags.ReasonOutsidePercentage
}
