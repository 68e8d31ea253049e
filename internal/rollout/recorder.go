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

// Recorder counts the outcomes of requests for which one flag decides. It never
// waits for the database. Without a rollout of the flag it counts nothing.
type Recorder struct {
	name  string
	users userLimiter
	run   atomic.Pointer[runCounters] // of the current stage run; nil if there is none
}

// stageRun identifies one run of a stage. Each time that a rollout enters a stage,
// a new run begins, with evidence of its own.
type stageRun struct {
	id           int64
	epoch, stage int
}

// runCounters count the outcomes of one stage run in this process.
type runCounters struct {
	stageRun
	name              string
	latency, database time.Duration // the plan's limits; 0 is none
	arms              [arms]counters
	flushed           [arms]Counts // what is in the database; used by the controller alone

	mu      sync.Mutex
	pending map[userFailure]timing // not flushed yet
}

// userFailure says that a user of the exposed arm had a failed or slow request. The
// database counts it once a minute over all replicas.
type userFailure struct {
	kind failureKind
	user [8]byte // a hash that differs from one stage run to the next
}

// timing is what a request adds to the times in Counts.
type timing struct {
	latencyUS, databaseUS int64
	databaseSlow          bool
}

// failureKind is the column kind of automation_rollout_failures.
type failureKind uint8

const (
	kindFailure failureKind = iota
	kindProvider
	kindSlow
	failureKinds // how many there are

	noFailure = failureKinds
)

func (k failureKind) String() string { return [...]string{"failure", "provider", "slow"}[k] }

func (f userFailure) hash() string { return hex.EncodeToString(f.user[:]) }

// maxPending bounds the failing users of one flush. More would change no verdict.
const maxPending = 10_000

// counters are the Counts of one arm. Those of the exposed arm are without its
// failures and slow requests, which are in pending.
type counters struct {
	outcomes, failures, provider, slow, dbSlow, latency, db, shared, ignored atomic.Int64
	_                                                                        [56]byte // so that the arms share no cache line
}

// Sample is how one request ended.
type Sample struct {
	Arm     Arm // see ArmOf; do not record a request of neither arm
	Outcome Outcome
	// UserID limits what one user contributes: at most 5 outcomes a minute on
	// each replica, and in the exposed arm at most one failure a minute and 10 an
	// hour over all replicas. It is not stored; the database has a hash of it
	// for two hours.
	UserID string
	// Latency is the time that Plan.LatencyP95 limits, and DatabaseTime how much
	// of it was spent in the database. 0 or less means that it is unknown.
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
	kind := noFailure
	switch {
	case s.Outcome == OutcomeFailure:
		kind = kindFailure
	case s.Outcome == OutcomeProviderFailure:
		kind = kindProvider
	case run.latency > 0 && s.Latency > run.latency:
		kind = kindSlow
	}
	t := timing{max(s.Latency, 0).Microseconds(), max(s.DatabaseTime, 0).Microseconds(), run.database > 0 && s.DatabaseTime > run.database}
	if s.Arm == ArmExposed && kind != noFailure {
		run.addPending(kind, s.UserID, t)
		return
	}
	c.outcomes.Add(1) // first, see counts
	c.latency.Add(t.latencyUS)
	c.db.Add(t.databaseUS)
	if t.databaseSlow {
		c.dbSlow.Add(1)
	}
	switch kind {
	case kindFailure:
		c.failures.Add(1)
	case kindProvider:
		c.failures.Add(1)
		c.provider.Add(1)
	case kindSlow:
		c.slow.Add(1)
	case noFailure:
	}
}

// addPending adds a failing user, under a hash, to those that the next flush writes.
// It ignores a user who is pending already.
func (r *runCounters) addPending(kind failureKind, user string, t timing) {
	hash := sha256.New()
	_, _ = hash.Write([]byte(r.name))
	_, _ = hash.Write(binary.BigEndian.AppendUint64([]byte{0}, uint64(r.id))) //nolint:gosec // a stage run is numbered from 1
	_, _ = hash.Write([]byte(user))
	f := userFailure{kind: kind}
	copy(f.user[:], hash.Sum(nil))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = map[userFailure]timing{}
	}
	if _, ok := r.pending[f]; !ok && len(r.pending) < maxPending {
		r.pending[f] = t
	}
}

// takePending removes the failing users that the next flush writes, and returns them.
func (r *runCounters) takePending() map[userFailure]timing {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.pending
	r.pending = nil
	return taken
}

// restorePending adds failing users again that a flush could not write.
func (r *runCounters) restorePending(taken map[userFailure]timing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f, t := range r.pending {
		if _, ok := taken[f]; !ok {
			taken[f] = t
		}
	}
	if len(taken) > 0 {
		r.pending = taken
	}
}

// counts returns the counts so far. Outcomes are counted first and read last, so
// that there are never more failures than outcomes.
func (c *counters) counts() Counts {
	n := Counts{Failures: c.failures.Load(), ProviderFailures: c.provider.Load(), Slow: c.slow.Load(), DatabaseSlow: c.dbSlow.Load(),
		LatencyUS: c.latency.Load(), DatabaseUS: c.db.Load(), SharedFailures: c.shared.Load(), Ignored: c.ignored.Load()}
	n.Outcomes = c.outcomes.Load()
	return n
}

// observe makes the recorder count for a stage run, or not at all if it is nil. It
// changes nothing if the recorder already counts for that run.
func (r *Recorder) observe(run *stageRun, p Plan) {
	switch c := r.run.Load(); {
	case run == nil:
		r.run.Store(nil)
	case c == nil || c.stageRun != *run:
		r.run.Store(&runCounters{stageRun: *run, name: r.name, latency: p.LatencyP95, database: p.DatabaseP95})
	}
}

// ArmOf returns the arm of a request by its flag's decision. Users who have the
// feature are exposed; users outside the percentage are the control arm. Users who
// do not have it for another reason are in neither arm, and ok is false.
func ArmOf(d flags.Decision) (arm Arm, ok bool) {
	if d.On {
		return ArmExposed, true
	}
	return ArmControl, d.Reason == flags.ReasonOutsidePercentage
}
