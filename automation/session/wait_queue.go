package session

import (
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// waitQueues are the queues of this replica's waiting requests. Only the head of a
// queue asks the database. So a long queue costs no more statements than a single
// request, and the requests are served in the order in which they came.
type waitQueues struct {
	now         func() time.Time
	holder      string        // identifies this replica; the ids of its queues begin with it
	lingerDelay time.Duration // for headView.inUseMayLinger; zero if nothing lingers
	mu          sync.Mutex
	pools       map[pool][]*waitQueue
	// ending are the claims whose release has been announced, with the time until
	// which requests wait for it.
	ending map[pool]map[*Claim]time.Time
}

// waitQueue holds the requests of one user that wait for one pool and omit the same
// provider, or none.
type waitQueue struct {
	all        *waitQueues // their lock guards all fields
	id         string      // of its place in the queue of all replicas
	pool       pool
	user, omit string

	waiters      []*waiter // the first one is the head
	intents      int       // opens for this queue that have not called the node yet
	calls        int       // opens for this queue that the node is working on
	err          error     // why the last open failed, until the head has seen it
	pausedUntil  time.Time // no further opens before that
	lastProgress time.Time // when a request was last served, or an open ended
	hasPlace     bool      // its head has a place in the queue of all replicas, or asks for one
	answers      int       // how often the database has answered since then
	knownSince   time.Time // when it answered first
	live         bool      // its pool had sessions when a head last asked
	hopeless     time.Time // since when it can only wait for opens of unknown outcome; zero if not
}

// waiter is a request in a queue.
type waiter struct {
	wake   chan struct{} // receives when it may be the head and should ask
	failed chan error    // receives why the queue has failed
	joined time.Time
	paid   bool // the node was asked to open a session for it
}

// join adds a new waiter at the end of its queue.
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

// notePlace records that the head is about to ask for a place in the queue of all
// replicas.
func (q *waitQueue) notePlace() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.hasPlace = true
}

// noteAnswer records that the database has saved the head's place, and had no session
// for it.
func (q *waitQueue) noteAnswer() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	if q.answers++; q.answers == 1 {
		q.knownSince = q.all.now()
	}
}

// leave removes a waiter, and wakes the next head. It reports whether the caller must
// delete the queue's place in the queue of all replicas, because nobody waits any more.
// If the waiter was served in the database, its claim has deleted the place already.
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

// headView is what the head of a queue knows when it asks the database.
type headView struct {
	waiting  int           // requests in the queue, the head included
	unpaid   int           // of these, requests that may have a session opened for them
	paused   bool          // no open may be tried now
	waited   time.Duration // how long the head has waited
	stalled  time.Duration // how long no request of the queue was served and no open ended
	next     time.Duration // how long the request behind the head has waited; negative if there is none
	failed   error         // why an open has failed since the head last asked
	headPaid bool          // the node was asked to open a session for the head
	ending   int           // claims of the pool whose release has been announced
	// inUseMayLinger is set while sessions in use may only linger in another replica,
	// which may not have seen yet that this queue waits. Until it has, they are no
	// reason to open another session, nor to refuse the request.
	inUseMayLinger bool
}

// minAnswers is how often the database must have answered before a queue assumes that
// other replicas know of it. If the database is slow, they learn of it late.
const minAnswers = 2

// viewAsHead returns what the waiter must know to ask the database, or false if it is not
// the head of the queue. The head sees the error of an open only once.
func (q *waitQueue) viewAsHead(w *waiter) (v headView, isHead bool) {
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

// noteHopeless records whether the head can only wait for opens of unknown outcome. It
// returns since when that is so, and whether it was so when the head last asked.
func (q *waitQueue) noteHopeless(isHopeless bool) (since time.Time, seenBefore bool) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	seenBefore = !q.hopeless.IsZero()
	switch {
	case !isHopeless:
		q.hopeless = time.Time{}
	case !seenBefore:
		q.hopeless = q.all.now()
	}
	return q.hopeless, seenBefore
}

// noteLive records whether the pool has sessions.
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

// fail ends the wait of all requests in the queue with an error.
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

// hasWaiters reports whether requests wait for a pool. A new request must then join
// them.
func (qs *waitQueues) hasWaiters(p pool) bool {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	return slices.ContainsFunc(qs.pools[p], func(q *waitQueue) bool { return len(q.waiters) > 0 })
}

// wake lets the heads of a pool's queues ask again. Without an error a session may have
// become idle; an error is why none will soon.
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

// releaseTimeout bounds how long the write of a release waits for the database, and how
// long requests wait for an announced release instead of having a session opened.
const releaseTimeout = 5 * time.Second

// beginRelease announces that a claim's session is about to be free.
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

// endRelease ends the announcement. The claim has been released, and the leaseManager
// counts the session from then on.
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

// remove removes a queue without waiters and opens. The caller holds the lock.
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
