package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// modelTable simulates a database that has the sessions of one pool. Its clock steps, and it
// loses replies. Replicas claim, extend and release leases in it.
type modelTable struct {
	mu             sync.Mutex
	random         *rand.Rand
	clockOffset    time.Duration // of the database's clock from the true one
	sessions       map[string]*modelSession
	waiting        map[string]modelWaiter // by replica
	lockedReleases map[string]int         // by token: failed releases because the row was locked
	losesReplies   bool
}

// modelWaiter is a replica that waits for a session.
type modelWaiter struct {
	since time.Time // on the true clock
	until time.Time // on the database's clock
}

type modelSession struct {
	token, holder string

	// On the database's clock:
	until  time.Time // end of the lease
	usedAt time.Time // last claim
	endsAt time.Time

	// On the true clock:
	confirmed time.Time // last claim or extension of the lease
	ended     time.Time // when the user ended the session, or zero
}

const (
	modelLease    = 3 * time.Second // short, so that heartbeats come between two claims
	modelCoolDown = 3 * time.Second
	modelMargin   = 30 * time.Second
	// modelStep bounds the offset of the database's clock.
	modelStep = 300 * time.Millisecond
	// modelPoll bounds the time until a replica knows that another one needs the session:
	// a release and two polls may be under way.
	modelPoll = 600 * time.Millisecond
)

var modelPool = pool{"user", "model"}

var errLost = errors.New("the reply is lost")

func (t *modelTable) now() time.Time { return time.Now().Add(t.clockOffset) }

// reply applies a statement. If replies are lost it sometimes returns errLost, with the
// statement applied or not.
func (t *modelTable) reply(apply func()) error {
	if t.losesReplies && t.random.IntN(10) == 0 {
		if t.random.IntN(2) == 0 {
			apply()
		}
		return errLost
	}
	apply()
	return nil
}

// delay sleeps for as long as a statement or its reply is under way.
func (t *modelTable) delay() {
	t.mu.Lock()
	d := time.Duration(t.random.IntN(50)) * time.Millisecond
	t.mu.Unlock()
	time.Sleep(d)
}

// claim follows the rules of claimQuery. A replica that gets no session is noted as waiting.
func (t *modelTable) claim(holder, token string) (r *row, err error) {
	t.delay()
	defer t.delay()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for id, s := range t.sessions {
		if s.token != "" && !s.until.Before(now.Add(-modelCoolDown)) || !s.ended.IsZero() || s.endsAt.Before(now.Add(modelMargin)) {
			continue
		}
		delete(t.waiting, holder)
		err := t.reply(func() {
			r = &row{ID: id, OwnerID: "user", ModelID: "model", UsedBefore: sqldb.Time{Time: s.usedAt}, LastUsedAt: sqldb.Time{Time: now}, Left: s.endsAt.Sub(now).Seconds()}
			s.token, s.holder, s.until, s.usedAt, s.confirmed = token, holder, now.Add(modelLease), now, time.Now()
		})
		return r, err
	}
	w, waits := t.waiting[holder]
	if !waits || !w.until.After(now) {
		w.since = time.Now()
	}
	w.until = now.Add(placeTimeout)
	t.waiting[holder] = w
	return nil, nil
}

// undo releases the claim with the token.
func (t *modelTable) undo(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		if s.token == token {
			s.token = ""
		}
	}
}

// modelReplica is the leaseStore of one replica.
type modelReplica struct {
	*modelTable

	name string
}

func (t modelReplica) heartbeat(_ context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error) {
	t.delay()
	defer t.delay()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.losesReplies && time.Now().Unix()%10 < 3 { // no heartbeat succeeds for three of ten seconds
		return nil, nil, errLost
	}
	extended, locked = map[string]confirmed{}, map[string]string{}
	err = t.reply(func() {
		for _, id := range ids {
			switch s := t.sessions[id]; {
			case s.token == "" || s.holder != t.name:
			case t.random.IntN(5) == 0:
				locked[id] = s.token
			default:
				s.until, s.confirmed = t.now().Add(modelLease), time.Now()
				extended[id] = confirmed{ID: id, Token: s.token, State: s.state(), Left: s.endsAt.Sub(t.now()).Seconds()}
			}
		}
	})
	return extended, locked, err
}

func (s *modelSession) state() string {
	if s.ended.IsZero() {
		return stateOpen
	}
	return stateEnding
}

func (t modelReplica) releaseUnlocked(_ context.Context, list []lease, busy bool) (locked []lease, err error) {
	t.delay()
	defer t.delay()
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.reply(func() {
		for _, l := range list {
			s := t.sessions[l.id]
			switch {
			case s.token != l.token || s.holder != t.name:
			case t.lockedReleases[l.token] < 2 && s.until.Sub(t.now()) > modelLease/2 && t.random.IntN(5) == 0:
				locked = append(locked, l)
				t.lockedReleases[l.token]++
			case busy:
				s.holder, s.until = "", t.now()
				delete(t.lockedReleases, l.token)
			default:
				s.token = ""
				delete(t.lockedReleases, l.token)
			}
		}
	})
	return locked, err
}

func (t modelReplica) neededElsewhere(_ context.Context, ids []string) (needed []string, err error) {
	t.delay()
	defer t.delay()
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.reply(func() {
		for _, id := range ids {
			waitedFor := false // by another replica
			for name, w := range t.waiting {
				waitedFor = waitedFor || name != t.name && w.until.After(t.now())
			}
			if waitedFor || t.sessions[id].state() != stateOpen {
				needed = append(needed, id)
			}
		}
	})
	return needed, err
}

// modelAudit checks that the rules hold. It knows which request uses each session, and uses the
// true clock.
type modelAudit struct {
	t     *testing.T
	table *modelTable

	mu                  sync.Mutex
	inUseBy             map[string]string    // by session: the request that uses it, or ""
	claimedAt           map[string]time.Time // by session: the last claim
	handOvers           map[string]int       // by session: hand-overs since its last claim
	drained             map[string]bool      // by replica
	claimed, handedOver int                  // requests
}

// begin records that a request begins to use a session, and checks that it may. The caller
// holds the lock.
func (a *modelAudit) begin(id, replica, who string, handedOver bool) {
	if other := a.inUseBy[id]; other != "" {
		a.t.Errorf("%s got session %s while %s uses it", who, id, other)
	}
	a.inUseBy[id] = who
	if !handedOver {
		a.claimed++
		a.handOvers[id] = 0
		return
	}
	a.handedOver++
	a.handOvers[id]++
	a.table.mu.Lock()
	defer a.table.mu.Unlock()
	s := a.table.sessions[id]
	violations := map[string]bool{
		"in a replica that is shutting down": a.drained[replica],
		"too often since its last claim":     a.handOvers[id] > maxHandOvers,
		"too long after its last claim":      time.Since(a.claimedAt[id]) > maxHandOverTime,
		"without its lease":                  s.token == "" || s.holder != replica,
		"near the end of its lease":          time.Since(s.confirmed) > modelLease*5/6-modelLease/3,
		"after its user ended it":            !s.ended.IsZero() && time.Since(s.ended) > maxHandOverTime,
		"near its end":                       s.endsAt.Sub(a.table.now()) < modelMargin-modelStep, // the database's clock may have stepped since the claim
	}
	if !a.table.losesReplies {
		violations["long after its user ended it"] = !s.ended.IsZero() && time.Since(s.ended) > modelPoll
		for name, w := range a.table.waiting {
			violations["though replica "+name+" waits for it"] = name != replica && w.until.After(a.table.now()) && time.Since(later(w.since, a.claimedAt[id])) > modelPoll
		}
	}
	for violation, occurred := range violations {
		if occurred {
			a.t.Errorf("%s was handed session %s %s", who, id, violation)
		}
	}
}

// end records that the request that uses a session has ended.
func (a *modelAudit) end(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inUseBy[id] = ""
}

// take tries to take over a lingering lease, and records it.
func (a *modelAudit) take(ctx context.Context, m *Manager, replica, who string, cancel context.CancelCauseFunc) (l lease, ok bool) {
	a.mu.Lock()
	r, l, releases := m.leases.take(modelPool, func(*row) bool { return true }, modelMargin, cancel)
	if r != nil {
		a.begin(r.ID, replica, who, true)
	}
	a.mu.Unlock()
	waitAll(ctx, releases)
	return l, r != nil
}

// drain ends lingering in a replica, as the end of its Run does, and records it.
func (a *modelAudit) drain(m *Manager, replica string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.leases.stopLingering()
	a.drained[replica] = true
}

// request runs one request in a replica: it takes over a lingering lease or claims a session,
// uses it, and ends its use.
func (a *modelAudit) request(ctx context.Context, m *Manager, t modelReplica, rnd *rand.Rand, who string) {
	work, cancelWork := context.WithCancelCause(ctx)
	defer cancelWork(nil)
	l, handedOver := a.take(ctx, m, t.name, who, cancelWork)
	if !handedOver {
		token, sentAt := fmt.Sprint(who, rnd.Int64()), time.Now()
		r, err := t.claim(t.name, token)
		if err != nil {
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
			t.undo(token)
			return
		}
		if r == nil {
			return
		}
		l = lease{r.ID, token}
		m.leases.addSession(l, sentAt, cancelWork, r, true)
		a.mu.Lock()
		a.claimedAt[r.ID] = sentAt
		a.begin(r.ID, t.name, who, false)
		a.mu.Unlock()
	}
	hold := time.Duration(rnd.IntN(10)) * time.Millisecond
	if rnd.IntN(100) == 0 {
		hold = time.Duration(rnd.IntN(10_000)) * time.Millisecond
	}
	select {
	case <-time.After(hold):
	case <-work.Done():
	}
	a.end(l.id)
	m.leases.mu.Lock()
	if h := m.leases.held[l.id]; work.Err() == nil && (h == nil || h.token != l.token || h.phase != inUse) {
		a.t.Errorf("%s lost the lease of session %s, and its context did not end", who, l.id)
	}
	m.leases.mu.Unlock()
	if work.Err() != nil { // some requests end their use only after another one has the session
		for range rnd.IntN(5000) {
			if m.leases.isUsedUnder(l) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	m.leases.end(l, work.Err() == nil && rnd.IntN(100) == 0)
}

// isUsedUnder reports whether a request uses the session under another lease.
func (lm *leaseManager) isUsedUnder(other lease) bool {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	h := lm.held[other.id]
	return h != nil && h.token != other.token && h.phase == inUse
}

// sendRequests sends requests to a replica until stop. Replica b pauses for 25 of 30 seconds,
// so that a is the only one in between.
func (a *modelAudit) sendRequests(ctx context.Context, m *Manager, t modelReplica, rnd *rand.Rand, who string, stop time.Time) {
	for time.Now().Before(stop) {
		if t.name == "b" && time.Now().Unix()%30 >= 5 {
			time.Sleep(time.Second)
			continue
		}
		a.request(ctx, m, t, rnd, who)
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
	}
}

// runChanges ends and replaces sessions, and steps the clock, until stop.
func (t *modelTable) runChanges(rnd *rand.Rand, stop time.Time) {
	for time.Now().Before(stop) {
		time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		t.mu.Lock()
		t.clockOffset = time.Duration(rnd.Int64N(int64(modelStep)))
		usable := 0
		for _, s := range t.sessions {
			if rnd.IntN(8) == 0 && s.ended.IsZero() {
				s.ended = time.Now()
			}
			if s.ended.IsZero() && s.endsAt.After(t.now().Add(modelMargin)) {
				usable++
			}
		}
		for ; usable < 2; usable++ {
			t.sessions[fmt.Sprint("session-", len(t.sessions))] = &modelSession{endsAt: time.Now().Add(modelMargin + time.Duration(rnd.IntN(20_000))*time.Millisecond)}
		}
		t.mu.Unlock()
	}
}

// TestLinger_HasOneHolderAtATime runs random schedules of two replicas that claim,
// hand over and release. Meanwhile replies are lost, rows are locked, users end their
// sessions, replicas shut down, and the database's clock steps.
func TestLinger_HasOneHolderAtATime(t *testing.T) {
	t.Parallel()
	var claimed, handedOver int
	for seed := range uint64(24) {
		synctest.Test(t, func(t *testing.T) {
			a := runModel(t, seed)
			claimed, handedOver = claimed+a.claimed, handedOver+a.handedOver
		})
	}
	t.Logf("%d claims, %d hand-overs", claimed, handedOver)
	if claimed < 1000 || handedOver < 1000 {
		t.Errorf("%d claims and %d hand-overs, want at least 1000 of each", claimed, handedOver)
	}
}

// runModel runs a minute of one schedule.
func runModel(t *testing.T, seed uint64) *modelAudit {
	t.Helper()
	newRand := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) } //nolint:gosec // a schedule, no secret
	table := &modelTable{random: newRand(1), sessions: map[string]*modelSession{}, waiting: map[string]modelWaiter{}, lockedReleases: map[string]int{}, losesReplies: seed%3 != 0}
	a := &modelAudit{t: t, table: table, inUseBy: map[string]string{}, claimedAt: map[string]time.Time{}, handOvers: map[string]int{}, drained: map[string]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := time.Now().Add(time.Minute)
	var replicas, requests sync.WaitGroup
	for i, name := range []string{"a", "b"} {
		replica := modelReplica{table, name}
		opts, err := Options{Lease: modelLease}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		m := &Manager{opts: opts, leases: newLeaseManager(replica, modelLease, 300*time.Millisecond, time.Now, func(*row) {})}
		replicas.Go(func() { m.heartbeatLoop(ctx) })
		replicas.Go(func() { m.expiryLoop(ctx) })
		for range releasers {
			replicas.Go(func() { m.releaseLoop(ctx) })
		}
		replicas.Go(func() { m.pollLoop(ctx) })
		for j := range 3 {
			rnd := newRand(uint64(10*i + j + 10)) //nolint:gosec // small
			requests.Go(func() { a.sendRequests(ctx, m, replica, rnd, fmt.Sprint(name, j), stop) })
		}
		requests.Go(func() {
			time.Sleep(50*time.Second + time.Duration(i)*5*time.Second)
			a.drain(m, name)
		})
	}
	requests.Go(func() { table.runChanges(newRand(2), stop) })
	requests.Wait()
	time.Sleep(3 * modelLease) // until lost replies no longer matter
	cancel()
	replicas.Wait()
	for id, s := range table.sessions {
		if s.token != "" && s.holder != "" && s.until.After(table.now()) {
			t.Errorf("seed %d: session %s is still leased by replica %s", seed, id, s.holder)
		}
	}
	if n := len(table.lockedReleases); n > 0 && !table.losesReplies {
		t.Errorf("seed %d: %d leases whose rows had been locked were never released", seed, n)
	}
	return a
}
