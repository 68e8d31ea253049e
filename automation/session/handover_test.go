package session

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// lingerHarness is a leaseManager whose sessions may linger. The store has all its leases.
type lingerHarness struct {
	*leaseManager
	t        *testing.T
	database *fakeLeaseStore
	clock    time.Duration // since the start; time also passes in a synctest bubble
	released []string      // ids of the rows for which onReleased was called
}

func newLingerHarness(t *testing.T, linger time.Duration) *lingerHarness {
	t.Helper()
	h := &lingerHarness{t: t, database: &fakeLeaseStore{tokens: map[string]string{}, locked: map[string]bool{}, state: stateOpen, left: 3600}}
	h.leaseManager = newLeaseManager(h.database, time.Minute, linger, func() time.Time { return time.Now().Add(h.clock) },
		func(r *row) { h.released = append(h.released, r.ID) })
	return h
}

// use begins the use of a session that ends after left. The session may linger afterwards.
func (h *lingerHarness) use(id string, left time.Duration) lease {
	l := lease{id, "token of " + id}
	h.database.tokens[id] = l.token
	h.addSession(l, h.now(), func(error) {}, &row{ID: id, Provider: "provider of " + id, Left: left.Seconds()}, true)
	h.held[id].allowed = true
	return l
}

// takeNext takes over a lease of the pool. It returns the id of the row, or "".
func (h *lingerHarness) takeNext(accepts func(*row) bool) (id string, releases []<-chan struct{}) {
	r, _, releases := h.take(pool{}, accepts, time.Minute, func(error) {})
	if r == nil {
		return "", releases
	}
	return r.ID, releases
}

// checkPhase checks whether a lease is in use, lingers or is being released.
func (h *lingerHarness) checkPhase(when, id string, want leasePhase) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := h.held[id].phase; got != want {
		h.t.Errorf("%s: session %s is in phase %d, want %d", when, id, got, want)
	}
	if isDue := slices.Contains(h.due, h.held[id]); isDue != (want == releasing) {
		h.t.Errorf("%s: the lease of session %s is due: %t, want %t", when, id, isDue, want == releasing)
	}
}

func isAny(*row) bool { return true }

func TestLinger_EndsInTime(t *testing.T) {
	for name, tt := range map[string]struct {
		linger, used time.Duration // used counts from the claim
		end          time.Duration // of the lingering, from the claim
	}{
		"after Linger":                        {300 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond},
		"when the hand-overs may take longer": {maxLinger, 1500 * time.Millisecond, maxHandOverTime},
		"at once after a long request":        {maxLinger, maxHandOverTime, maxHandOverTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newLingerHarness(t, tt.linger)
				l := h.use("row", time.Hour)
				time.Sleep(tt.used)
				if lingers, _ := h.end(l, false); lingers != (tt.used < tt.end) {
					t.Errorf("lingers: %t, want %t", lingers, tt.used < tt.end)
				}
				if tt.used < tt.end {
					time.Sleep(tt.end - tt.used - time.Nanosecond)
					synctest.Wait()
					h.checkPhase("before its time is over", "row", lingering)
					time.Sleep(time.Nanosecond)
					synctest.Wait()
				}
				h.checkPhase("when its time is over", "row", releasing)
			})
		})
	}
}

// The timer of an earlier lingering must not end a later one.
func TestLinger_BeginsAgainAfterAHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLingerHarness(t, 300*time.Millisecond)
		l := h.use("row", time.Hour)
		h.end(l, false)
		time.Sleep(200 * time.Millisecond)
		if id, _ := h.takeNext(isAny); id != "row" {
			t.Fatal("the session was not handed over")
		}
		h.end(l, false)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		h.checkPhase("400 ms after the first and 200 ms after the second request", "row", lingering)
		h.stopLingering()
	})
}

// The node may still be working for the request that held a busy session.
func TestLinger_DoesNotHandOverABusySession(t *testing.T) {
	h := newLingerHarness(t, maxLinger)
	if lingers, _ := h.end(h.use("row", time.Hour), true); lingers {
		t.Error("a busy session lingers")
	}
	if id, releases := h.takeNext(isAny); id != "" || len(releases) > 0 {
		t.Errorf("a request got the busy session %q, or waits for %d releases; want neither", id, len(releases))
	}
	if releases := h.recall(isAny); len(releases) > 0 || h.countReleasing(pool{}) > 0 {
		t.Errorf("%d releases to wait for, %d sessions about to be free; want none, because the session cools down", len(releases), h.countReleasing(pool{}))
	}
	if err := h.releaseDue(t.Context()); err != nil || !slices.Equal(h.database.lapsed, []string{"row"}) {
		t.Errorf("error %v, sessions that cool down: %q; want the busy one", err, h.database.lapsed)
	}
}

func TestLinger_HandsOverTheAcceptedSessionThatEndsFirst(t *testing.T) {
	h := newLingerHarness(t, maxLinger)
	accepts := func(r *row) bool { return r.ID != "refused" }
	for id, left := range map[string]time.Duration{"within the margin": time.Minute, "refused": time.Hour, "first": 2 * time.Hour, "last": 3 * time.Hour} {
		h.end(h.use(id, left), false)
	}
	for _, want := range []string{"first", "last"} {
		if id, _ := h.takeNext(accepts); id != want {
			t.Errorf("session %q was handed over, want %q", id, want)
		}
		h.checkPhase("after the hand-over", want, inUse)
	}
	if n := len(h.idle[pool{}]); n != 2 {
		t.Errorf("%d idle sessions after two of four were handed over, want 2", n)
	}
	id, releases := h.takeNext(accepts)
	if id != "" || len(releases) != 2 || h.countReleasing(pool{}) != 2 {
		t.Fatalf("session %q was handed over, %d sessions to wait for, %d about to be free; want none handed over and the other two released", id, len(releases), h.countReleasing(pool{}))
	}
	if err := h.releaseDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, released := range releases {
		select {
		case <-released:
		default:
			t.Error("requests still wait for a session that was released")
		}
	}
	if slices.Sort(h.released); !slices.Equal(h.released, []string{"refused", "within the margin"}) || len(h.idle) != 0 || len(h.held) != 2 {
		t.Errorf("onReleased was called for %q, %d pools with idle sessions, %d leases held; want the two that were released, no pool, and the two in use", h.released, len(h.idle), len(h.held))
	}
}

// A session that is handed over must suit the request: neither of the provider that the request
// omits, nor of one that has failed for its user.
func TestLinger_HandsOverNoSessionOfAnUnwantedProvider(t *testing.T) {
	for name, tt := range map[string]struct {
		request Request
		want    bool
	}{
		"a request that omits another provider":  {Request{UserID: "bob", OmitProvider: "another"}, true},
		"a request that omits this provider":     {Request{UserID: "bob", OmitProvider: "provider of row"}, false},
		"a user for whom this provider failed":   {Request{UserID: "anna"}, false},
		"a user for whom no provider has failed": {Request{UserID: "bob"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newLingerHarness(t, maxLinger)
				m := &Manager{opts: Options{Now: h.now}, leases: h.leaseManager}
				m.providers.add("provider of row", "anna")
				h.end(h.use("row", time.Hour), false)
				if c := m.takeLingering(t.Context(), pool{}, tt.request, false); (c != nil) != tt.want {
					t.Errorf("handed over: %t, want %t", c != nil, tt.want)
				}
				h.stopLingering()
			})
		})
	}
}

// A session that takes longer than releaseTimeout to be released is no reason to wait.
func TestLinger_CountsSessionsThatAreBeingReleased(t *testing.T) {
	h := newLingerHarness(t, maxLinger)
	h.end(h.use("row", time.Hour), false)
	if n := h.countReleasing(pool{}); n != 0 {
		t.Errorf("%d sessions are about to be free while one lingers, want 0", n)
	}
	if n := len(h.recall(func(r *row) bool { return r.ID != "row" })); n != 0 {
		t.Errorf("%d sessions recalled, want 0 because none matches", n)
	}
	h.checkPhase("after other sessions were recalled", "row", lingering)
	for range 2 { // the second time it is being released already
		if n := len(h.recall(isAny)); n != 1 || h.countReleasing(pool{}) != 1 {
			t.Errorf("%d sessions recalled, %d about to be free; want 1", n, h.countReleasing(pool{}))
		}
	}
	h.clock += releaseTimeout
	if n := h.countReleasing(pool{}); n != 0 {
		t.Errorf("%d sessions are about to be free after releaseTimeout, want 0", n)
	}
}

func TestLinger_IsForbidden(t *testing.T) {
	for name, tt := range map[string]struct {
		forbid       func(h *lingerHarness)
		otherLingers bool
	}{
		"for some sessions": {func(h *lingerHarness) { h.forbidHandOver(func(r *row) bool { return r.ID != "other" }) }, true},
		"for all sessions":  {func(h *lingerHarness) { h.stopLingering() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newLingerHarness(t, maxLinger)
			h.add(lease{"open", "token"}, h.now(), func(error) {}) // no request holds it
			h.end(h.use("lingers", time.Hour), false)
			used, other := h.use("in use", time.Hour), h.use("other", time.Hour)
			tt.forbid(h)
			h.checkPhase("when lingering is forbidden", "lingers", releasing)
			h.checkPhase("when lingering is forbidden", "in use", inUse)
			if lingers, _ := h.end(used, false); lingers {
				t.Error("the session in use lingers after its request")
			}
			h.checkPhase("after its request", "in use", releasing)
			if lingers, _ := h.end(other, false); lingers != tt.otherLingers {
				t.Errorf("the other session lingers: %t, want %t", lingers, tt.otherLingers)
			}
		})
	}
}

// A request waits for the release of its session if the next one may come to another replica.
func TestRelease_IsWaitedForIfTheSessionIsShared(t *testing.T) {
	for unshared, waits := range map[bool]bool{true: false, false: true} {
		h := newLingerHarness(t, maxLinger)
		l := h.use("row", time.Hour)
		h.held["row"].allowed, h.held["row"].unshared = false, unshared
		if lingers, released := h.end(l, false); lingers || (released != nil) != waits {
			t.Errorf("with unshared %t the session lingers: %t, the request waits: %t; want no lingering, waits: %t", unshared, lingers, released != nil, waits)
		}
	}
}

// A replica that gave up a lease, because it could not extend it, still releases what the
// database has under its token. A busy session cools down then as well.
func TestRelease_OfALeaseThatTheReplicaHasGivenUp(t *testing.T) {
	for name, busy := range map[string]bool{"free": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			h := newLingerHarness(t, maxLinger)
			l := h.use("row", time.Hour)
			h.clock += time.Minute
			if n := h.expireLeases(); n != 1 || len(h.held) != 0 {
				t.Fatalf("%d leases lost, %d held; want 1 lost and none held", n, len(h.held))
			}
			h.end(l, busy)
			if err := h.releaseDue(t.Context()); err != nil || len(h.database.tokens) != 0 || (len(h.database.lapsed) == 1) != busy {
				t.Errorf("error %v, leases in the database %v, sessions that cool down %q; want no lease, and a cool-down: %t", err, h.database.tokens, h.database.lapsed, busy)
			}
		})
	}
}

// A lease that lingers or is being released has no request that could lose it.
func TestLeaseManager_ReplacesOrExpiresAnIdleLease(t *testing.T) {
	for name, invalidate := range map[string]func(h *lingerHarness){
		"the session is leased again": func(h *lingerHarness) { h.use("row", time.Hour) },
		"the lease ends":              func(h *lingerHarness) { h.clock += time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			h := newLingerHarness(t, maxLinger)
			h.addSession(lease{"row", "older"}, h.now(), func(error) { t.Error("a request that has ended was cancelled") }, &row{ID: "row"}, true)
			h.end(lease{"row", "older"}, false)
			releases := h.recall(isAny)
			invalidate(h)
			if n := h.expireLeases(); n != 0 {
				t.Errorf("%d leases lost, want 0", n)
			}
			if len(h.idle) != 0 {
				t.Errorf("idle sessions %v, want none", h.idle)
			}
			select {
			case <-releases[0]:
			default:
				t.Error("requests still wait for the older lease")
			}
		})
	}
}

func TestLeaseManager_DropsOnlyTheLeaseWithTheToken(t *testing.T) {
	h := newLingerHarness(t, maxLinger)
	l := h.use("row", time.Hour)
	h.drop(lease{"row", "older"})
	if len(h.held) != 1 {
		t.Error("dropping an older lease has dropped the newer one")
	}
	h.drop(l)
	if len(h.held) != 0 {
		t.Error("the lease was not dropped")
	}
}

// A lease lingers only if its request follows another one of this replica closely, and no other
// replica has used the session meanwhile.
func TestLinger_FollowsTheUseOfThisReplicaOnly(t *testing.T) {
	const linger = time.Second
	claimed := time.Now() // on the database's clock
	type use struct {
		after            time.Duration // since the last use here
		elsewhere        bool          // another replica has claimed the session since
		unshared, follow bool
	}
	for name, uses := range map[string][]use{
		"one after the other":        {{0, false, false, false}, {linger, false, true, true}, {linger, false, true, true}},
		"with a pause":               {{0, false, false, false}, {linger + 1, false, true, false}, {linger, false, true, true}},
		"in turn with another":       {{0, false, false, false}, {linger, true, false, false}, {linger, false, false, false}},
		"long after another's claim": {{0, false, false, false}, {linger, true, false, false}, {sharedMemory + 1, false, true, false}, {linger, false, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newLingerHarness(t, linger)
			start := time.Now()
			h.now = func() time.Time { return start.Add(h.clock) }
			usedBefore := sqldb.Time{}
			for i, u := range uses {
				h.clock += u.after
				if u.elsewhere {
					usedBefore = sqldb.Time{Time: usedBefore.Add(time.Millisecond)}
				}
				claimed = claimed.Add(time.Second)
				r := &row{ID: "row", UsedBefore: usedBefore, LastUsedAt: sqldb.Time{Time: claimed}}
				usedBefore = r.LastUsedAt
				l := lease{"row", "token"}
				h.addSession(l, h.now(), func(error) {}, r, true)
				if got := h.held["row"]; got.unshared != u.unshared || got.allowed != u.follow {
					t.Errorf("use %d: unshared %t, may linger %t; want %t and %t", i, got.unshared, got.allowed, u.unshared, u.follow)
				}
				h.held["row"].allowed = false
				h.end(l, false)
				h.drop(l)
			}
		})
	}
}

func TestLinger_NeedsMayLinger(t *testing.T) {
	for _, mayLinger := range []bool{true, false} {
		h := newLingerHarness(t, time.Second)
		lastUse := time.Now()
		h.uses["row"] = sessionUse{claimedAt: lastUse, endedAt: h.now()}
		h.addSession(lease{"row", "token"}, h.now(), func(error) {}, &row{ID: "row", UsedBefore: sqldb.Time{Time: lastUse}, LastUsedAt: sqldb.Time{Time: time.Now()}}, mayLinger)
		if got := h.held["row"].allowed; got != mayLinger {
			t.Errorf("with mayLinger %t the session may linger: %t", mayLinger, got)
		}
	}
}

// A replica forgets the sessions that it has not used for long, but not those in use.
func TestLinger_ForgetsSessionsNotUsedLately(t *testing.T) {
	h := newLingerHarness(t, time.Second)
	claim := func(id string) lease {
		l := lease{id, "token"}
		h.addSession(l, h.now(), func(error) {}, &row{ID: id, LastUsedAt: sqldb.Time{Time: time.Now()}}, true)
		return l
	}
	claim("in use")
	for i := range 1000 {
		l := claim(fmt.Sprint("row ", i))
		h.end(l, false)
		h.drop(l)
		h.clock += sharedMemory
	}
	if n := len(h.uses); n > 100 {
		t.Errorf("%d of 1000 sessions are remembered, want at most 100", n)
	}
	if _, ok := h.uses["in use"]; !ok {
		t.Error("the session in use was forgotten")
	}
}

// For a model that keeps an idle session ready, maintenance would open another one while one lingers.
func TestManager_MayLinger(t *testing.T) {
	ready := func() []Prewarm { return nil }
	for name, tt := range map[string]struct {
		prewarm   func() []Prewarm
		prewarmed *[]string
		row       row
		want      bool
	}{
		"a user's own session":                     {ready, &[]string{"model"}, row{OwnerID: "anna", ModelID: "model"}, true},
		"a shared session, no model is kept ready": {nil, nil, row{ModelID: "model"}, true},
		"a shared session of another model":        {ready, &[]string{"other"}, row{ModelID: "model"}, true},
		"a shared session of a model kept ready":   {ready, &[]string{"model"}, row{ModelID: "model"}, false},
		"a shared session before the first round":  {ready, nil, row{ModelID: "model"}, false},
	} {
		m := &Manager{opts: Options{Prewarm: tt.prewarm}}
		m.prewarmed.Store(tt.prewarmed)
		if got := m.mayLinger(&tt.row); got != tt.want {
			t.Errorf("%s may linger: %t, want %t", name, got, tt.want)
		}
	}
}
