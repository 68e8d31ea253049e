package session

import (
	"context"
	"errors"
	"time"
)

// How long a queue that has sessions to wait for tries no other open.
const (
	pauseRefused = 5 * time.Second // after the node has refused one
	pauseCapped  = time.Second     // after a limit has refused one
)

// pauseOpens pauses the opens because a limit has refused one.
func (q *waitQueue) pauseOpens() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.pausedUntil = q.all.now().Add(pauseCapped)
}

// addIntent counts an intent that is about to call the node.
func (q *waitQueue) addIntent() {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.intents++
}

// needsCall reports whether a request still waits that another open would serve.
func (q *waitQueue) needsCall(context.Context) bool {
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	return q.payer() != nil
}

// payer returns the waiter for whom the next call is made: the first one for whom the
// node was not asked yet. It returns nil if there is none, or if the calls under way
// serve all waiters. The caller holds the lock.
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

// beginCall counts an intent as a call of the node for the payer. It returns a function
// to be called when the call ends: with an error if certainly nothing was opened, so that
// the payer may cause another call. It returns nil if no waiter needs the call any more.
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

// dropIntent ends an intent that has not called the node. If its lease was lost, that is
// no error for the queue, and the head may reserve another intent.
func (q *waitQueue) dropIntent(err error) {
	if errors.Is(err, ErrLeaseLost) {
		err = nil
	}
	q.all.mu.Lock()
	defer q.all.mu.Unlock()
	q.intents--
	q.noteOpenEnded(err)
}

// noteOpenEnded records the end of an open, and its error. The caller holds the lock.
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
