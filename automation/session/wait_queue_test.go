package session

import (
	"errors"
	"testing"
	"time"
)

func TestWaitQueue_LetsTheHeadAloneAsk(t *testing.T) {
	now := time.Now()
	qs := &waitQueues{now: func() time.Time { return now }}
	p := pool{"alice", "model"}
	q, first := qs.join(p, "alice", "")
	now = now.Add(time.Second)
	_, second := qs.join(p, "alice", "")
	if other, _ := qs.join(p, "alice", "0xomit"); other == q {
		t.Error("those who omit a provider wait in the same queue")
	}
	if _, head := q.isHead(second); head {
		t.Error("the second is the head")
	}
	if v, head := q.isHead(first); !head || v.waiting != 2 || v.unpaid != 2 || v.waited != time.Second || v.next != 0 || v.paused {
		t.Errorf("the first sees %+v, head %v", v, head)
	}
	q.pauseOpens()
	if v, _ := q.isHead(first); !v.paused {
		t.Error("it opens more at once after a cap refused it")
	}
	now = now.Add(pauseCapped)
	if v, _ := q.isHead(first); v.paused {
		t.Error("it stays paused")
	}
	for len(second.wake) > 0 {
		<-second.wake
	}
	if q.leave(first, true, true) {
		t.Error("a queue in which somebody waits leaves its place behind")
	}
	if len(second.wake) != 1 {
		t.Error("nobody woke the second, which is the head now")
	}
	if v, head := q.isHead(second); !head || v.waiting != 1 || v.next != -1 || v.stalled != 0 {
		t.Errorf("the second sees %+v, head %v", v, head)
	}
	refusal := errors.New("no bids")
	q.fail(refusal)
	q.fail(refusal)
	if err := <-second.failed; !errors.Is(err, refusal) {
		t.Errorf("it was told %v", err)
	}
	q.notePlace()
	if !q.leave(second, false, false) {
		t.Error("the place of an empty queue is not given up")
	}
	if len(qs.pools[p]) != 1 || !qs.hasWaiters(p) || qs.hasWaiters(pool{"bob", "model"}) {
		t.Errorf("queues left: %v", qs.pools)
	}
}

func TestWaitQueue_CountsSessionsThatAreAboutToBeFree(t *testing.T) {
	now := time.Now()
	qs := &waitQueues{now: func() time.Time { return now }}
	p, hung, released := pool{"alice", "model"}, &Claim{}, &Claim{}
	q, head := qs.join(p, "alice", "")
	sees := func(want int) {
		t.Helper()
		if v, _ := q.isHead(head); v.ending != want {
			t.Errorf("the head expects %d sessions, want %d", v.ending, want)
		}
	}
	qs.beginRelease(p, hung)
	qs.beginRelease(p, hung)
	qs.beginRelease(p, released)
	qs.beginRelease(pool{"alice", "other"}, &Claim{})
	sees(2)
	released.released.Store(true)
	qs.endRelease(p, released)
	qs.beginRelease(p, released) // late
	sees(1)
	now = now.Add(releaseTimeout)
	sees(0)
	qs.endRelease(p, hung)
	if len(qs.ending[p]) != 0 {
		t.Errorf("left: %v", qs.ending)
	}
}

// The first request that waits may find in use what lingers elsewhere; those behind it do not wait for that again.
func TestWaitQueue_IsEarlyUntilOtherReplicasKnowOfIt(t *testing.T) {
	now := time.Now()
	const earlyFor = 500 * time.Millisecond
	qs := &waitQueues{now: func() time.Time { return now }, lingerDelay: earlyFor}
	p := pool{"alice", "model"}
	q, first := qs.join(p, "alice", "")
	_, second := qs.join(p, "alice", "")
	isEarly := func(w *waiter, want bool) {
		t.Helper()
		if v, head := q.isHead(w); !head || v.inUseMayLinger != want {
			t.Errorf("head %t, early %t; want %t", head, v.inUseMayLinger, want)
		}
	}
	now = now.Add(time.Hour) // the database is slow
	isEarly(first, true)
	q.notePlace()
	q.noteAnswer()
	now = now.Add(earlyFor)
	isEarly(first, true) // it may be as slow for the other replica
	q.noteAnswer()
	isEarly(first, false)
	now = now.Add(-time.Millisecond)
	isEarly(first, true)
	now = now.Add(time.Millisecond)
	q.leave(first, true, true)
	isEarly(second, false)
	q.leave(second, true, true)
	q, first = qs.join(p, "alice", "")
	isEarly(first, true)
	qs.lingerDelay = 0 // nothing lingers
	isEarly(first, false)
}

func TestWaitQueue_CallsOnceForEachWhoStillWaits(t *testing.T) {
	qs := &waitQueues{now: time.Now}
	q, first := qs.join(pool{"alice", "model"}, "alice", "")
	_, second := qs.join(pool{"alice", "model"}, "alice", "")
	for range 3 {
		q.addIntent()
	}
	if v, _ := q.isHead(first); v.unpaid != 0 {
		t.Errorf("with 3 intents for 2 requests it wants %d more", v.unpaid)
	}
	end1, end2 := q.beginCall(t.Context()), q.beginCall(t.Context())
	if end1 == nil || end2 == nil || q.needsCall(t.Context()) || q.beginCall(t.Context()) != nil {
		t.Fatal("want one call for each of two requests and no third")
	}
	q.dropIntent(nil)
	refusal := errors.New("no bids")
	end1(refusal)
	if v, _ := q.isHead(first); v.headPaid || v.unpaid != 1 || !errors.Is(v.failed, refusal) || !v.paused {
		t.Errorf("after a refusal the head sees %+v", v)
	}
	end2(nil)
	q.leave(second, true, true)
	q.addIntent()
	q.leave(first, false, false)
	if q.needsCall(t.Context()) || q.beginCall(t.Context()) != nil {
		t.Error("it calls for a request that has left")
	}
	q.dropIntent(nil)
	if len(qs.pools) != 0 {
		t.Errorf("queues left: %v", qs.pools)
	}
}

func TestAcquisition_AsksASlowDatabaseHalfOfTheTime(t *testing.T) {
	for asked := 1; asked < 5; asked++ {
		a := &acquisition{attempts: asked}
		for took, least := range map[time.Duration]time.Duration{
			0: 22 * time.Millisecond, 10 * time.Millisecond: 22 * time.Millisecond, time.Second: time.Second,
			time.Hour: time.Second, -time.Hour: 22 * time.Millisecond, // the clock was set
		} {
			if pause := a.pause(took); pause < least || pause > max(least, 165*time.Millisecond) {
				t.Errorf("after ask %d, which took %v, it waits %v", asked, took, pause)
			}
		}
	}
}
