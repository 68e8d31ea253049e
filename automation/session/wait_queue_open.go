package session

import (
	"context"
	"errors"
	"time"
)

// After a refusal of the node, and after one of a cap's, a queue that has
// sessions to wait for tries no open for this long.
const (
	pauseRefused = 5 * time.Second
	pauseCapped  = time.Second
)

// pauseOpens notes that a cap has refused an open.
func (q *waitQueue) pauseOpens() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.pausedUntil = q.all.now().Add(pauseCapped)
}

// addIntent counts one more intent that is about to call the node.
func (q *waitQueue) addIntent() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.intents++
}

// needsCall reports whether somebody still waits whom another open would serve.
func (q *waitQueue) needsCall(context.Context) bool {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	return q.payer() != nil
}

// payer is the waiter for whom the next call is made: the first of those who
// have had none, as long as not all are served by the calls under way. The
// caller holds the lock.
func (q *waitQueue) payer() *waiter {
	if len(q.waiters) <= q.calls {
		return nil
	}
	for _, w := range q.waiters {
		if !w.paid {
			return w
		}
	}
	return nil
}

// beginCall turns an intent into a call for the first waiter who has had none,
// and returns what to call at its end: with an error where certainly nothing
// was opened, so that the waiter has paid nothing. It returns nil where nobody
// needs the call any more.
func (q *waitQueue) beginCall(context.Context) func(error) {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	w := q.payer()
	if w == nil {
		return nil
	}
	w.paid = true
	q.intents--
	q.calls++
	return func(err error) {
		q.all.mu.Lock()
		defer q.all.mu.Unlock()
		q.calls--
		if err != nil {
			w.paid = false
		}
		q.noteOpenEnded(err)
	}
}

// dropIntent counts one intent off that did not call the node. An intent whose lease
// could not be extended has paid nothing, and the head may have another one.
func (q *waitQueue) dropIntent(err error) {
	if errors.Is(err, ErrLeaseLost) {
		err = nil
	}
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.intents--
	q.noteOpenEnded(err)
}

// noteOpenEnded notes what came of an open. The caller holds the lock.
func (q *waitQueue) noteOpenEnded(err error) {
	q.lastProgress = q.all.now()
	if err != nil {
		q.err, q.pausedUntil = err, q.lastProgress.Add(pauseRefused)
	}
	q.signal()
	q.remove()
}

// isPaid reports whether the node was asked to open a session for a waiter.
func (q *waitQueue) isPaid(w *waiter) bool {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	return w.paid
}
