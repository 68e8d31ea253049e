package session

import (
	"slices"
	"sync"
	"time"
)

// lines are the queues of this replica's waiting requests. Only the first of a
// line asks the database, so a crowd costs no more statements than one, and
// whoever came first is served first.
type lines struct {
	mu    sync.Mutex
	pools map[pool][]*line
}

// line is the queue of one user for one pool, apart where a provider is omitted.
type line struct {
	all        *lines
	pool       pool
	user, omit string

	waiting []*waiter // the first one leads
	opening int       // opens of ours under way
	hold    time.Time // no new opens before, after one has failed
}

type waiter struct {
	wake   chan struct{} // something changed, or it leads now
	failed chan error    // the opens it waited for have failed
}

// join puts a new waiter at the end of the line.
func (ls *lines) join(p pool, user, omit string) (*line, *waiter) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	i := slices.IndexFunc(ls.pools[p], func(l *line) bool { return l.user == user && l.omit == omit })
	var l *line
	if i >= 0 {
		l = ls.pools[p][i]
	} else {
		l = &line{all: ls, pool: p, user: user, omit: omit}
		if ls.pools == nil {
			ls.pools = map[pool][]*line{}
		}
		ls.pools[p] = append(ls.pools[p], l)
	}
	w := &waiter{wake: make(chan struct{}, 1), failed: make(chan error, 1)}
	l.waiting = append(l.waiting, w)
	if len(l.waiting) == 1 {
		w.signal()
	}
	return l, w
}

// leave takes a waiter out, and lets the next one lead.
func (l *line) leave(w *waiter) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	if len(l.waiting) > 0 {
		l.waiting[0].signal()
	}
	l.tidy()
}

// tidy forgets a line with nothing in it. The caller holds the lock.
func (l *line) tidy() {
	if len(l.waiting) > 0 || l.opening > 0 || !l.hold.IsZero() {
		return
	}
	list := l.all.pools[l.pool]
	if i := slices.Index(list, l); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(l.all.pools, l.pool)
	} else {
		l.all.pools[l.pool] = list
	}
}

// crowded tells whether somebody waits for a pool, so that nobody jumps the queue.
func (ls *lines) crowded(p pool) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.ContainsFunc(ls.pools[p], func(l *line) bool { return len(l.waiting) > 0 })
}

// leads tells whether it is the waiter's turn to ask the database.
func (l *line) leads(w *waiter) bool {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	return len(l.waiting) > 0 && l.waiting[0] == w
}

// wanted is how many more opens the line could use.
func (l *line) wanted(now time.Time) int {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if now.Before(l.hold) {
		return 0
	}
	l.hold = time.Time{}
	return max(len(l.waiting)-l.opening, 0)
}

// begin counts n opens under way.
func (l *line) begin(n int) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.opening += n
}

// ended counts one open off. When the last one of them has failed, everybody
// who waits hears why.
func (l *line) ended(err error, until time.Time) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.opening--
	if err != nil {
		l.hold = until
	}
	if err != nil && l.opening == 0 {
		for _, w := range l.waiting {
			select {
			case w.failed <- err:
			default:
			}
		}
	}
	if len(l.waiting) > 0 {
		l.waiting[0].signal()
	}
	if err == nil {
		l.tidy()
	}
}

// wake tells the leaders of a pool's lines that a session may have become idle.
func (ls *lines) wake(p pool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.pools[p] {
		if len(l.waiting) > 0 {
			l.waiting[0].signal()
		}
	}
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
