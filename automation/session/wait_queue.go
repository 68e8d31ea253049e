package session

import (
	"slices"
	"sync"
	"time"
)

// waitQueues are the queues of this replica's waiting requests. Only the first of a
// line asks the database, so a crowd costs no more statements than one, and
// whoever came first is served first.
type waitQueues struct {
	now   func() time.Time
	mu    sync.Mutex
	pools map[pool][]*waitQueue
}

// waitQueue is the queue of one user for one pool, apart where a provider is omitted.
type waitQueue struct {
	all        *waitQueues
	pool       pool
	user, omit string

	waiting []*waiter // the first one leads
	opening int       // opens of ours under way
	err     error     // why the last open failed, until the leader has seen it
	again   time.Time // no more opens before
}

// After a refusal of the node, and after one of a cap's, a line that has
// sessions to wait for tries no open for this long.
const (
	holdRefused = 5 * time.Second
	holdCapped  = time.Second
)

type waiter struct {
	wake   chan struct{} // something changed, or it leads now
	failed chan error    // the opens it waited for have failed
}

// join puts a new waiter at the end of its line.
func (ls *waitQueues) join(p pool, user, omit string) (*waitQueue, *waiter) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var l *waitQueue
	if i := slices.IndexFunc(ls.pools[p], func(l *waitQueue) bool { return l.user == user && l.omit == omit }); i >= 0 {
		l = ls.pools[p][i]
	} else {
		l = &waitQueue{all: ls, pool: p, user: user, omit: omit}
		if ls.pools == nil {
			ls.pools = map[pool][]*waitQueue{}
		}
		ls.pools[p] = append(ls.pools[p], l)
	}
	w := &waiter{wake: make(chan struct{}, 1), failed: make(chan error, 1)}
	l.waiting = append(l.waiting, w)
	l.signal()
	return l, w
}

// leave takes a waiter out, and lets the next one lead.
func (l *waitQueue) leave(w *waiter) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	l.signal()
	l.tidy()
}

// isHead reports whether it is the waiter's semaphore to ask the database, how many
// more opens the line could use, and whether one has failed since last asked.
func (l *waitQueue) isHead(w *waiter) (leads bool, wanted int, failed error) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if len(l.waiting) == 0 || l.waiting[0] != w {
		return false, 0, nil
	}
	failed, l.err = l.err, nil
	if failed != nil || l.all.now().Before(l.again) {
		return true, 0, failed
	}
	return true, max(len(l.waiting)-l.opening, 0), nil
}

// capped notes that a cap has refused an open.
func (l *waitQueue) capped() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.again = l.all.now().Add(holdCapped)
}

// begin counts one more open under way.
func (l *waitQueue) begin() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.opening++
}

// ended counts one open off, with the reason if nothing came of it.
func (l *waitQueue) ended(err error) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.opening--
	if err != nil {
		l.err, l.again = err, l.all.now().Add(holdRefused)
	}
	l.signal()
	l.tidy()
}

// fail sends everybody in the line away.
func (l *waitQueue) fail(err error) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	for _, w := range l.waiting {
		select {
		case w.failed <- err:
		default:
		}
	}
}

// hasWaiters reports whether somebody waits for a pool, so that nobody jumps the queue.
func (ls *waitQueues) hasWaiters(p pool) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.ContainsFunc(ls.pools[p], func(l *waitQueue) bool { return len(l.waiting) > 0 })
}

// wake tells the leaders of a pool's lines that a session may have become
// idle, or with an error that none will soon.
func (ls *waitQueues) wake(p pool, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.pools[p] {
		if err != nil {
			l.err = err
		}
		l.signal()
	}
}

// signal wakes the leader. The caller holds the lock.
func (l *waitQueue) signal() {
	if len(l.waiting) == 0 {
		return
	}
	select {
	case l.waiting[0].wake <- struct{}{}:
	default:
	}
}

// tidy forgets a line that nobody needs. The caller holds the lock.
func (l *waitQueue) tidy() {
	if len(l.waiting) > 0 || l.opening > 0 {
		return
	}
	list := slices.DeleteFunc(l.all.pools[l.pool], func(o *waitQueue) bool { return o == l })
	if len(list) == 0 {
		delete(l.all.pools, l.pool)
	} else {
		l.all.pools[l.pool] = list
	}
}
