package session

import (
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// waitQueues are the queues of this replica's waiting requests. Only the head
// of a queue asks the database, so many who wait cost no more statements than one,
// and whoever came first is served first.
type waitQueues struct {
	now         func() time.Time
	holder      string        // the replica's, with which the ids of its queues begin
	lingerDelay time.Duration // see headView.early; zero: none
	mu          sync.Mutex
	pools       map[pool][]*waitQueue
	// ending are the claims whose sessions are about to be free, with the time
	// from which on nobody waits for that.
	ending map[pool]map[*Claim]time.Time
}

// waitQueue holds the requests of one user that wait for one pool, apart where
// a provider is omitted.
type waitQueue struct {
	all        *waitQueues
	id         string // of its place in the queue of all replicas
	pool       pool
	user, omit string

	waiters      []*waiter // the first one is the head
	intents      int       // opens of ours that have not called the node yet
	calls        int       // opens of ours under way at the node
	err          error     // why the last open failed, until the head has seen it
	pausedUntil  time.Time // no more opens before
	lastProgress time.Time // when a request was last served, or an open ended
	hasPlace     bool      // the database knows of its head
	knownSince   time.Time // since when, if it has answered
	answers      int       // how often it has answered since
	live         bool      // there were sessions of its pool when a head last asked
	hopeless     time.Time // since when nothing is there to wait for but opens of unknown outcome
}

type waiter struct {
	wake   chan struct{} // something changed, or it is the head now
	failed chan error    // the opens it waited for have failed
	joined time.Time
	paid   bool // the node was asked to open a session for it
}

// join puts a new waiter at the end of its queue.
func (qs *waitQueues) join(p pool, user, omit string) (*waitQueue, *waiter) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	var q *waitQueue
	if i := slices.IndexFunc(qs.pools[p], func(q *waitQueue) bool { return q.user == user && q.omit == omit }); i >= 0 {
		q = qs.pools[p][i]
	} else {
		q = &waitQueue{all: qs, id: qs.holder + rand.Text(), pool: p, user: user, omit: omit}
		if qs.pools == nil {
			qs.pools = map[pool][]*waitQueue{}
		}
		qs.pools[p] = append(qs.pools[p], q)
	}
	w := &waiter{wake: make(chan struct{}, 1), failed: make(chan error, 1), joined: qs.now()}
	q.waiters = append(q.waiters, w)
	q.signal()
	return q, w
}

// notePlace notes that the database is about to know of the queue's head.
func (q *waitQueue) notePlace() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.hasPlace = true
}

// noteAnswer notes that the database knows of the head and had nothing for it.
func (q *waitQueue) noteAnswer() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	if q.answers++; q.answers == 1 {
		q.knownSince = q.all.now()
	}
}

// leave takes a waiter out, and lets the next one be the head. A claim in the database
// gives up or passes on the place there by itself. It reports whether the queue leaves
// behind a place that nobody needs any more.
func (q *waitQueue) leave(w *waiter, served, inDatabase bool) (abandoned bool) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	if i := slices.Index(q.waiters, w); i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
	}
	if served {
		q.lastProgress = q.all.now()
	}
	q.signal()
	q.remove()
	if len(q.waiters) > 0 || !q.hasPlace {
		return false
	}
	q.hasPlace, q.answers = false, 0
	return !inDatabase
}

// headView is what the head of a queue sees when it is its turn to ask.
type headView struct {
	waiting  int           // how many wait, itself included
	unpaid   int           // of these, how many may have a session opened for them
	paused   bool          // no open is to be tried now
	waited   time.Duration // for how long the head has waited
	stalled  time.Duration // for how long nothing has happened to its queue
	next     time.Duration // for how long the one behind it has waited, negative: there is none
	failed   error         // why an open failed since it last asked
	headPaid bool          // an open was tried for the head itself
	ending   int           // claims of the pool whose sessions are about to be free
	// inUseMayLinger: another replica in which a session lingers may not have seen yet that
	// somebody waits for it, so one in use is no reason to pay, nor to refuse.
	inUseMayLinger bool
}

// minAnswers is how often the database has at least answered a queue that is not early
// any more: a slow one may keep the other replica from releasing the session.
const minAnswers = 2

// isHead reports whether it is the waiter's turn to ask the database, and what
// it has to know for that.
func (q *waitQueue) isHead(w *waiter) (v headView, head bool) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	if len(q.waiters) == 0 || q.waiters[0] != w {
		return v, false
	}
	now := q.all.now()
	v = headView{waiting: len(q.waiters), waited: now.Sub(w.joined), stalled: now.Sub(w.joined), next: -1, failed: q.err, headPaid: w.paid}
	v.paused = q.err != nil || now.Before(q.pausedUntil)
	q.err = nil
	if q.lastProgress.After(w.joined) {
		v.stalled = now.Sub(q.lastProgress)
	}
	if len(q.waiters) > 1 {
		v.next = now.Sub(q.waiters[1].joined)
	}
	for _, o := range q.waiters {
		if !o.paid {
			v.unpaid++
		}
	}
	v.unpaid = max(v.unpaid-q.intents, 0)
	for _, until := range q.all.ending[q.pool] {
		if now.Before(until) {
			v.ending++
		}
	}
	v.inUseMayLinger = q.all.lingerDelay > 0 && (q.answers < minAnswers || now.Sub(q.knownSince) < q.all.lingerDelay)
	return v, true
}

// noteHopeless notes whether the head has something to wait for besides opens
// of unknown outcome. It returns since when it has not, and whether that was
// seen before.
func (q *waitQueue) noteHopeless(isHopeless bool) (since time.Time, again bool) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	again = !q.hopeless.IsZero()
	switch {
	case !isHopeless:
		q.hopeless = time.Time{}
	case !again:
		q.hopeless = q.all.now()
	}
	return q.hopeless, again
}

// noteLive notes whether the pool has sessions.
func (q *waitQueue) noteLive(live bool) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.live = live
}

// hasLive reports whether the pool had sessions when a head last asked.
func (q *waitQueue) hasLive() bool {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	return q.live
}

// fail sends everybody in the queue away.
func (q *waitQueue) fail(err error) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	for _, w := range q.waiters {
		select {
		case w.failed <- err:
		default:
		}
	}
}

// hasWaiters reports whether somebody waits for a pool, so that nobody takes
// another's turn.
func (qs *waitQueues) hasWaiters(p pool) bool {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	return slices.ContainsFunc(qs.pools[p], func(q *waitQueue) bool { return len(q.waiters) > 0 })
}

// wake lets the heads of a pool's queues ask again, because a session may have
// become idle, or with an error because none will soon.
func (qs *waitQueues) wake(p pool, err error) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	for _, q := range qs.pools[p] {
		if err != nil {
			q.err = err
		}
		q.signal()
	}
}

// releaseTimeout bounds how long the write of a release waits for the database,
// and how long an announced release keeps others from having a session opened.
const releaseTimeout = 5 * time.Second

// beginRelease notes that a claim's session is about to be free.
func (qs *waitQueues) beginRelease(p pool, c *Claim) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if c.released.Load() {
		return
	}
	if qs.ending == nil {
		qs.ending = map[pool]map[*Claim]time.Time{}
	}
	if qs.ending[p] == nil {
		qs.ending[p] = map[*Claim]time.Time{}
	}
	qs.ending[p][c] = qs.now().Add(releaseTimeout)
}

// endRelease notes that the claim is released: from then on the leaseManager counts it.
func (qs *waitQueues) endRelease(p pool, c *Claim) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if delete(qs.ending[p], c); len(qs.ending[p]) == 0 {
		delete(qs.ending, p)
	}
}

// signal wakes the head. The caller holds the lock.
func (q *waitQueue) signal() {
	if len(q.waiters) == 0 {
		return
	}
	select {
	case q.waiters[0].wake <- struct{}{}:
	default:
	}
}

// remove forgets a queue that nobody needs. The caller holds the lock.
func (q *waitQueue) remove() {
	if len(q.waiters) > 0 || q.intents+q.calls > 0 {
		return
	}
	list := slices.DeleteFunc(q.all.pools[q.pool], func(o *waitQueue) bool { return o == q })
	if len(list) == 0 {
		delete(q.all.pools, q.pool)
	} else {
		q.all.pools[q.pool] = list
	}
}
