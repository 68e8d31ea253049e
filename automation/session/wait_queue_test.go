package session

import (
	"errors"
	"testing"
	"time"
)

func TestWaitQueue_LetsTheHeadAloneAsk(t *testing.T) {
	now := time.Now()
	ls := &waitQueues{now: func() time.Time { return now }}
	p := pool{"alice", "model"}
	leads := func(l *waitQueue, w *waiter, want bool, wanted int) {
		t.Helper()
		if got, n, _ := l.isHead(w); got != want || n != wanted {
			t.Errorf("leads %v and wants %d, want %v and %d", got, n, want, wanted)
		}
	}
	l, first := ls.join(p, "alice", "")
	_, second := ls.join(p, "alice", "")
	if other, _ := ls.join(p, "alice", "0xomit"); other == l {
		t.Error("those who omit a provider wait in the same line")
	}
	leads(l, second, false, 0)
	leads(l, first, true, 2)
	l.begin()
	leads(l, first, true, 1)
	l.ended(nil)
	leads(l, first, true, 2)
	l.capped()
	leads(l, first, true, 0)
	now = now.Add(holdCapped)
	leads(l, first, true, 2)

	l.begin()
	refusal := errors.New("no bids")
	l.ended(refusal)
	if _, n, err := l.isHead(first); n != 0 || !errors.Is(err, refusal) {
		t.Errorf("after a refusal it wants %d, told %v", n, err)
	}
	leads(l, first, true, 0)
	now = now.Add(holdRefused)
	leads(l, first, true, 2)

	for len(second.wake) > 0 {
		<-second.wake
	}
	l.leave(first)
	if len(second.wake) != 1 {
		t.Error("nobody told the second that it leads now")
	}
	leads(l, second, true, 1)
	l.fail(refusal)
	l.fail(refusal)
	if err := <-second.failed; !errors.Is(err, refusal) {
		t.Errorf("told %v", err)
	}
	l.leave(second)
	if len(ls.pools[p]) != 1 || !ls.hasWaiters(p) || ls.hasWaiters(pool{"bob", "model"}) {
		t.Errorf("lines left: %v", ls.pools)
	}
}
