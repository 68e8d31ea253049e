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

// modelTable is a database with a few sessions of one pool, whose clock steps and whose
// replies are lost, for replicas that use them.
type modelTable struct {
	mu       sync.Mutex
	rnd      *rand.Rand
	clock    time.Duration // how far it is off
	sessions map[string]*modelSession
	waiting  map[string]modelWaiter // of replicas that wait for a session
	owed     map[string]int         // tokens of leases whose rows were locked when they were to be released, and how often
	losing   bool
}

type modelWaiter struct {
	since time.Time // on the true clock
	until time.Time
}

type modelSession struct {
	token, holder string
	until         time.Time
	usedAt        time.Time
	endsAt        time.Time
	confirmed     time.Time // when the lease was last claimed or extended, on the true clock
	ended         time.Time // when its user has ended it, on the same, or zero
}

const (
	modelLease    = 3 * time.Second // so short that a heartbeat matters between two claims
	modelCoolDown = 3 * time.Second
	modelMargin   = 30 * time.Second
	// modelStep is the most that the database's clock is off.
	modelStep = 300 * time.Millisecond
	// modelPoll is the longest until a poll says what is needed elsewhere: a release
	// and two polls may be on their way.
	modelPoll = 600 * time.Millisecond
)

var modelPool = pool{"user", "model"}

var errLost = errors.New("the reply is lost")

func (t *modelTable) now() time.Time { return time.Now().Add(t.clock) }

// reply applies a statement, and loses some replies before or after that.
func (t *modelTable) reply(apply func()) error {
	if t.losing && t.rnd.IntN(10) == 0 {
		if t.rnd.IntN(2) == 0 {
			apply()
		}
		return errLost
	}
	apply()
	return nil
}

// travel is the way of a statement, or of its reply.
func (t *modelTable) travel() {
	t.mu.Lock()
	d := time.Duration(t.rnd.IntN(50)) * time.Millisecond
	t.mu.Unlock()
	time.Sleep(d)
}

// claim is the rule of claimQuery. A replica that gets nothing waits.
func (t *modelTable) claim(holder, token string) (r *row, err error) {
	t.travel()
	defer t.travel()
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

// undo takes a claim back by its token.
func (t *modelTable) undo(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		if s.token == token {
			s.token = ""
		}
	}
}

// modelReplica is the table as one replica's leaseManager uses it.
type modelReplica struct {
	*modelTable

	name string
}

func (t modelReplica) heartbeat(_ context.Context, ids []string) (extended map[string]confirmed, locked map[string]string, err error) {
	t.travel()
	defer t.travel()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.losing && time.Now().Unix()%10 < 3 { // for seconds no heartbeat gets through
		return nil, nil, errLost
	}
	extended, locked = map[string]confirmed{}, map[string]string{}
	err = t.reply(func() {
		for _, id := range ids {
			switch s := t.sessions[id]; {
			case s.token == "" || s.holder != t.name:
			case t.rnd.IntN(5) == 0:
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
	t.travel()
	defer t.travel()
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.reply(func() {
		for _, l := range list {
			s := t.sessions[l.id]
			switch {
			case s.token != l.token || s.holder != t.name:
			case t.owed[l.token] < 2 && s.until.Sub(t.now()) > modelLease/2 && t.rnd.IntN(5) == 0:
				locked = append(locked, l)
				t.owed[l.token]++
			case busy:
				s.holder, s.until = "", t.now()
				delete(t.owed, l.token)
			default:
				s.token = ""
				delete(t.owed, l.token)
			}
		}
	})
	return locked, err
}

func (t modelReplica) neededElsewhere(_ context.Context, ids []string) (needed []string, err error) {
	t.travel()
	defer t.travel()
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.reply(func() {
		for _, id := range ids {
			elsewhere := false
			for name, w := range t.waiting {
				elsewhere = elsewhere || name != t.name && w.until.After(t.now())
			}
			if elsewhere || t.sessions[id].state() != stateOpen {
				needed = append(needed, id)
			}
		}
	})
	return needed, err
}

// modelAudit notes who uses which session, on a clock that nobody else has.
type modelAudit struct {
	t     *testing.T
	table *modelTable

	mu                  sync.Mutex
	users               map[string]string
	claims              map[string]time.Time // when a session was last claimed
	runs                map[string]int       // hand-overs since then
	drained             map[string]bool      // replicas
	claimed, handedOver int
}

// begin notes a use. The caller holds the lock.
func (a *modelAudit) begin(id, replica, who string, handedOver bool) {
	if other := a.users[id]; other != "" {
		a.t.Errorf("%s got session %s while %s uses it", who, id, other)
	}
	a.users[id] = who
	if !handedOver {
		a.claimed++
		a.runs[id] = 0
		return
	}
	a.handedOver++
	a.runs[id]++
	a.table.mu.Lock()
	defer a.table.mu.Unlock()
	s := a.table.sessions[id]
	fails := map[string]bool{
		"in a replica that is being drained": a.drained[replica],
		"too often in a row":                 a.runs[id] > maxHandOvers,
		"for too long in a row":              time.Since(a.claims[id]) > maxHandOverTime,
		"without its lease":                  s.token == "" || s.holder != replica,
		"near the end of its lease":          time.Since(s.confirmed) > modelLease*5/6-modelLease/3,
		"after its user ended it":            !s.ended.IsZero() && time.Since(s.ended) > maxHandOverTime,
		"near its end":                       s.endsAt.Sub(a.table.now()) < modelMargin-modelStep, // the clock may have stepped since it was read
	}
	if !a.table.losing {
		fails["long after its user ended it"] = !s.ended.IsZero() && time.Since(s.ended) > modelPoll
		for name, w := range a.table.waiting {
			fails["while replica "+name+" waits"] = name != replica && w.until.After(a.table.now()) && time.Since(later(w.since, a.claims[id])) > modelPoll
		}
	}
	for how, failed := range fails {
		if failed {
			a.t.Errorf("%s was handed session %s %s", who, id, how)
		}
	}
}

func (a *modelAudit) end(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users[id] = ""
}

// take is a hand-over, and its note.
func (a *modelAudit) take(ctx context.Context, m *Manager, replica, who string, lost context.CancelCauseFunc) (l lease, ok bool) {
	a.mu.Lock()
	r, l, releases := m.leases.take(modelPool, func(*row) bool { return true }, modelMargin, lost)
	if r != nil {
		a.begin(r.ID, replica, who, true)
	}
	a.mu.Unlock()
	waitAll(ctx, releases)
	return l, r != nil
}

// drain is the end of a replica's Run, and its note.
func (a *modelAudit) drain(m *Manager, replica string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.leases.stopLingering()
	a.drained[replica] = true
}

// request is one way of a request through a replica: from what lingers there or from
// the table, and back.
func (a *modelAudit) request(ctx context.Context, m *Manager, t modelReplica, rnd *rand.Rand, who string) {
	work, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	l, handedOver := a.take(ctx, m, t.name, who, lost)
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
		m.leases.addSession(l, sentAt, lost, r, true)
		a.mu.Lock()
		a.claims[r.ID] = sentAt
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
		a.t.Errorf("%s has lost the lease of session %s unnoticed", who, l.id)
	}
	m.leases.mu.Unlock()
	if work.Err() != nil { // some say so late that another request has the session
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
func (k *leaseManager) isUsedUnder(other lease) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.held[other.id]
	return h != nil && h.token != other.token && h.phase == inUse
}

// use sends requests to a replica, in shifts, so that it is at times the only one.
func (a *modelAudit) use(ctx context.Context, m *Manager, t modelReplica, rnd *rand.Rand, who string, stop time.Time) {
	for time.Now().Before(stop) {
		if t.name == "b" && time.Now().Unix()%30 >= 5 {
			time.Sleep(time.Second)
			continue
		}
		a.request(ctx, m, t, rnd, who)
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
	}
}

// change ends sessions, puts others in their place, and steps the clock.
func (t *modelTable) change(rnd *rand.Rand, stop time.Time) {
	for time.Now().Before(stop) {
		time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		t.mu.Lock()
		t.clock = time.Duration(rnd.Int64N(int64(modelStep)))
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
// hand over and release, while replies are lost, rows are locked, users end their
// sessions, replicas are drained, and the database's clock steps.
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
		t.Errorf("%d claims and %d hand-overs are too few to show anything", claimed, handedOver)
	}
}

func runModel(t *testing.T, seed uint64) *modelAudit {
	t.Helper()
	random := func(of uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, of)) } //nolint:gosec // a schedule, no secret
	table := &modelTable{rnd: random(1), sessions: map[string]*modelSession{}, waiting: map[string]modelWaiter{}, owed: map[string]int{}, losing: seed%3 != 0}
	a := &modelAudit{t: t, table: table, users: map[string]string{}, claims: map[string]time.Time{}, runs: map[string]int{}, drained: map[string]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := time.Now().Add(time.Minute)
	var replicas, requests sync.WaitGroup
	for i, name := range []string{"a", "b"} {
		of := modelReplica{table, name}
		opts, err := Options{Lease: modelLease}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		m := &Manager{opts: opts, leases: newLeaseManager(of, modelLease, 300*time.Millisecond, time.Now, func(*row) {})}
		replicas.Go(func() { m.heartbeatLoop(ctx) })
		replicas.Go(func() { m.expiryLoop(ctx) })
		for range releasers {
			replicas.Go(func() { m.releaseLoop(ctx) })
		}
		replicas.Go(func() { m.pollLoop(ctx) })
		for j := range 3 {
			rnd := random(uint64(10*i + j + 10)) //nolint:gosec // small
			requests.Go(func() { a.use(ctx, m, of, rnd, fmt.Sprint(name, j), stop) })
		}
		requests.Go(func() {
			time.Sleep(50*time.Second + time.Duration(i)*5*time.Second)
			a.drain(m, name)
		})
	}
	requests.Go(func() { table.change(random(2), stop) })
	requests.Wait()
	time.Sleep(3 * modelLease) // for what was in doubt
	cancel()
	replicas.Wait()
	for id, s := range table.sessions {
		if s.token != "" && s.holder != "" && s.until.After(table.now()) {
			t.Errorf("seed %d: %s is still leased by %s", seed, id, s.holder)
		}
	}
	if n := len(table.owed); n > 0 && !table.losing {
		t.Errorf("seed %d: %d leases were not released because their rows were locked for a moment", seed, n)
	}
	return a
}
