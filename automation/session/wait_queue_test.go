package session

import (
	"errors"
	"testing"
	"time"
)

func TestWaitQueue_HasOneHead(t *testing.T) {
	now := time.Now()
	qs := &waitQueues{now: func() time.Time { return now }}
	p := pool{"alice", "model"}
	q, first := qs.join(p, "alice", "")
	now = now.Add(time.Second)
	_, second := qs.join(p, "alice", "")
	if other, _ := qs.join(p, "alice", "0xomit"); other == q {
		t.Error("a request that omits a provider waits in the queue of those that omit none")
	}
	if _, head := q.viewAsHead(second); head {
		t.Error("the second request is the head")
	}
	if v, head := q.viewAsHead(first); !head || v.waiting != 2 || v.unpaid != 2 || v.waited != time.Second || v.next != 0 || v.paused {
		t.Errorf("the first request sees %+v, head %t; want the head of two that waits for 1 s", v, head)
	}
	q.pauseOpens()
	if v, _ := q.viewAsHead(first); !v.paused {
		t.Error("opens are not paused after pauseOpens")
	}
	now = now.Add(pauseCapped)
	if v, _ := q.viewAsHead(first); v.paused {
		t.Error("opens are still paused after pauseCapped")
	}
	for len(second.wake) > 0 {
		<-second.wake
	}
	if q.leave(first, true, true) {
		t.Error("leave returns true though another request waits: the place in the database must be kept")
	}
	if len(second.wake) != 1 {
		t.Error("the second request, which is the head now, was not woken")
	}
	if v, head := q.viewAsHead(second); !head || v.waiting != 1 || v.next != -1 || v.stalled != 0 {
		t.Errorf("the second request sees %+v, head %t; want the head of one", v, head)
	}
	refusal := errors.New("no bids")
	q.fail(refusal)
	q.fail(refusal)
	if err := <-second.failed; !errors.Is(err, refusal) {
		t.Errorf("the second request failed with %v, want %v", err, refusal)
	}
	q.notePlace()
	if !q.leave(second, false, false) {
		t.Error("leave returns false for an empty queue: its place in the database must be deleted")
	}
	if len(qs.pools[p]) != 1 || !qs.hasWaiters(p) || qs.hasWaiters(pool{"bob", "model"}) {
		t.Errorf("queues left: %v, want only that of the request that omits a provider", qs.pools)
	}
}

func TestWaitQueue_CountsSessionsThatAreAboutToBeFree(t *testing.T) {
	now := time.Now()
	qs := &waitQueues{now: func() time.Time { return now }}
	p, hung, released := pool{"alice", "model"}, &Claim{}, &Claim{}
	q, head := qs.join(p, "alice", "")
	checkEnding := func(want int) {
		t.Helper()
		if v, _ := q.viewAsHead(head); v.ending != want {
			t.Errorf("the head sees %d sessions that are about to be free, want %d", v.ending, want)
		}
	}
	qs.beginRelease(p, hung)
	qs.beginRelease(p, hung)
	qs.beginRelease(p, released)
	qs.beginRelease(pool{"alice", "other"}, &Claim{})
	checkEnding(2)
	released.released.Store(true)
	qs.endRelease(p, released)
	qs.beginRelease(p, released) // after its release: not counted
	checkEnding(1)
	now = now.Add(releaseTimeout)
	checkEnding(0)
	qs.endRelease(p, hung)
	if len(qs.ending[p]) != 0 {
		t.Errorf("sessions still counted as about to be free: %v", qs.ending)
	}
}

// A session that seems in use may merely linger in another replica, which releases it once it knows
// of the waiting request. Only the first request of a queue waits for that.
func TestWaitQueue_ExpectsLingeringUntilOtherReplicasKnowOfIt(t *testing.T) {
	now := time.Now()
	const lingerDelay = 500 * time.Millisecond
	qs := &waitQueues{now: func() time.Time { return now }, lingerDelay: lingerDelay}
	p := pool{"alice", "model"}
	q, first := qs.join(p, "alice", "")
	_, second := qs.join(p, "alice", "")
	checkMayLinger := func(w *waiter, want bool) {
		t.Helper()
		if v, head := q.viewAsHead(w); !head || v.inUseMayLinger != want {
			t.Errorf("head %t, inUseMayLinger %t; want the head, and %t", head, v.inUseMayLinger, want)
		}
	}
	now = now.Add(time.Hour) // the database does not have the request yet
	checkMayLinger(first, true)
	q.notePlace()
	q.noteAnswer()
	now = now.Add(lingerDelay)
	checkMayLinger(first, true) // one answer is not enough: another replica may not know yet
	q.noteAnswer()
	checkMayLinger(first, false)
	now = now.Add(-time.Millisecond)
	checkMayLinger(first, true)
	now = now.Add(time.Millisecond)
	q.leave(first, true, true)
	checkMayLinger(second, false)
	q.addIntent() // so the queue remains when nobody waits
	q.leave(second, true, true)
	_, first = qs.join(p, "alice", "")
	checkMayLinger(first, true) // the place in the database is a new one
	qs.lingerDelay = 0          // nothing lingers
	checkMayLinger(first, false)
}

func TestWaitQueue_CallsOnceForEachWaitingRequest(t *testing.T) {
	qs := &waitQueues{now: time.Now}
	q, first := qs.join(pool{"alice", "model"}, "alice", "")
	_, second := qs.join(pool{"alice", "model"}, "alice", "")
	for range 3 {
		q.addIntent()
	}
	if v, _ := q.viewAsHead(first); v.unpaid != 0 {
		t.Errorf("with 3 intents for 2 requests %d requests have none, want 0", v.unpaid)
	}
	end1, end2 := q.beginCall(t.Context()), q.beginCall(t.Context())
	if end1 == nil || end2 == nil || q.needsCall(t.Context()) || q.beginCall(t.Context()) != nil {
		t.Fatal("want one call for each of two requests and no third")
	}
	q.dropIntent(nil)
	refusal := errors.New("no bids")
	end1(refusal)
	if v, _ := q.viewAsHead(first); v.headPaid || v.unpaid != 1 || !errors.Is(v.failed, refusal) || !v.paused {
		t.Errorf("after a refusal the head sees %+v, want its error, opens paused, and one request without an intent", v)
	}
	if v, _ := q.viewAsHead(first); v.failed != nil || !v.paused {
		t.Errorf("the next time the head sees %+v, want no error and opens still paused", v)
	}
	end2(nil)
	q.leave(second, true, true)
	q.addIntent()
	q.leave(first, false, false)
	if q.needsCall(t.Context()) || q.beginCall(t.Context()) != nil {
		t.Error("the node would be called though all requests have left")
	}
	if again, w := qs.join(pool{"alice", "model"}, "alice", ""); again != q {
		t.Error("a later request does not join the queue that has an open under way")
	} else {
		again.leave(w, false, false)
	}
	q.dropIntent(nil)
	if len(qs.pools) != 0 {
		t.Errorf("queues left: %v, want none", qs.pools)
	}
}

// A request that comes while a call is under way, for a request that has left since, gets the
// session of that call. It causes no call of its own.
func TestWaitQueue_CallServesALaterRequest(t *testing.T) {
	qs := &waitQueues{now: time.Now}
	p := pool{"alice", "model"}
	q, first := qs.join(p, "alice", "")
	q.addIntent()
	endCall := q.beginCall(t.Context())
	q.leave(first, false, false)
	qs.join(p, "alice", "")
	q.addIntent()
	if q.needsCall(t.Context()) || q.beginCall(t.Context()) != nil {
		t.Error("a second call would be made for one waiting request")
	}
	endCall(errors.New("no bids"))
	if !q.needsCall(t.Context()) || q.beginCall(t.Context()) == nil {
		t.Error("no call would be made after the first one has failed")
	}
}

func TestAcquisition_AsksASlowDatabaseAtMostHalfOfTheTime(t *testing.T) {
	for attempts := 1; attempts < 5; attempts++ {
		a := &acquisition{attempts: attempts}
		for took, minPause := range map[time.Duration]time.Duration{
			0: 22 * time.Millisecond, 10 * time.Millisecond: 22 * time.Millisecond, time.Second: time.Second,
			time.Hour: time.Second, -time.Hour: 22 * time.Millisecond, // the clock was set
		} {
			if pause := a.pause(took); pause < minPause || pause > max(minPause, 165*time.Millisecond) {
				t.Errorf("after attempt %d, which took %v, the pause is %v; want %v to %v", attempts, took, pause, minPause, max(minPause, 165*time.Millisecond))
			}
		}
	}
}
