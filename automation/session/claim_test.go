package session

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// newClaimHarness returns a manager and its leases. Its loops have ended, so a claim that does not
// linger releases its lease itself. Its database has no sessions.
func newClaimHarness(t *testing.T) (*Manager, *lingerHarness) {
	t.Helper()
	h := newLingerHarness(t, maxLinger)
	opts, err := Options{Now: h.now}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := &Manager{opts: opts, leases: h.leaseManager, queues: waitQueues{now: h.now}, phase: running, base: t.Context(),
		store: &store{db: sqldb.New(schematest.SQLite(t), sqldb.Options{MaxConns: 1, Timeout: time.Minute})}}
	h.noteLoopsEnded()
	t.Cleanup(func() {
		h.stopLingering()
		m.work.Wait()
	})
	return m, h
}

// claimLingering returns a claim of a session that may linger afterwards.
func claimLingering(ctx context.Context, t *testing.T, m *Manager, h *lingerHarness) *Claim {
	t.Helper()
	h.end(h.use("row", time.Hour), false)
	c := m.takeLingering(ctx, pool{}, Request{}, false)
	if c == nil {
		t.Fatal("the session was not handed over")
	}
	return c
}

// The next request may have the session as soon as it lingers.
func TestClaim_EndsItsContextsBeforeTheSessionLingers(t *testing.T) {
	m, h := newClaimHarness(t)
	c := claimLingering(t.Context(), t, m, h)
	now, checked := h.now, false
	h.now = func() time.Time { // called while the lease is ended
		checked = true
		if c.Context().Err() == nil || c.LeaseContext().Err() == nil {
			t.Errorf("the claim's contexts end with %v and %v, want both ended before the lease", c.Context().Err(), c.LeaseContext().Err())
		}
		return now()
	}
	c.Release()
	if h.checkPhase("after the release", "row", lingering); !checked {
		t.Error("the test has checked nothing")
	}
}

func TestClaim_WakesWaitingRequestsWhenTheSessionLingers(t *testing.T) {
	m, h := newClaimHarness(t)
	c := claimLingering(t.Context(), t, m, h)
	c.row.SessionID.String = "0x1"
	_, unnamed := m.queues.join(pool{}, "anna", "")
	_, named := m.queues.join(namedPool("0x1"), "anna", "")
	<-unnamed.wake
	<-named.wake
	c.PrepareRelease()
	c.Release()
	if len(unnamed.wake) != 1 || len(named.wake) != 1 {
		t.Errorf("woken: %d requests for any session, %d for this one; want 1 and 1", len(unnamed.wake), len(named.wake))
	}
	if len(m.queues.ending) != 0 {
		t.Errorf("the session still counts as about to be free: %v", m.queues.ending)
	}
}

func TestClaim_ReleasesItsLeaseItselfAfterTheLoopsHaveEnded(t *testing.T) {
	m, h := newClaimHarness(t)
	c := claimLingering(t.Context(), t, m, h)
	h.stopLingering()
	c.Release()
	if len(h.database.tokens) != 0 || len(h.held) != 0 {
		t.Errorf("leases in the database %v, held %d; want none", h.database.tokens, len(h.held))
	}
}

// A lease that is handed over keeps its token, so an older claim must not use it any more.
func TestClaim_MarkExpired(t *testing.T) {
	for name, isReleased := range map[string]bool{"in use": false, "released": true} {
		t.Run(name, func(t *testing.T) {
			m, h := newClaimHarness(t)
			c := claimLingering(t.Context(), t, m, h)
			if isReleased {
				c.Release()
			}
			if err := c.MarkExpired(); err != nil {
				t.Fatal(err)
			}
			c.Release()
			switch {
			case isReleased:
				h.checkPhase("after MarkExpired, which came too late", "row", lingering)
			case len(h.held) != 0:
				t.Error("the lease of the expired session was not released")
			}
		})
	}
}

// A request that has left, or comes while Run is ending, gets no claim, and its lease is ended.
func TestClaimed_EndsTheLeaseOfARequestThatCannotHaveIt(t *testing.T) {
	left, leave := context.WithCancel(t.Context())
	leave()
	for name, tt := range map[string]struct {
		ctx   context.Context
		phase phase
		want  error
	}{
		"the request has left": {left, running, context.Canceled},
		"Run is ending":        {t.Context(), ending, ErrNotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			m, h := newClaimHarness(t)
			m.phase = tt.phase
			c, err := m.claimed(tt.ctx, &row{ID: "row"}, Request{}, lease{"row", "token"}, h.now(), false)
			if c != nil || !errors.Is(err, tt.want) {
				t.Errorf("claim %v, error %v; want none, %v", c, err, tt.want)
			}
			if len(h.held) != 0 {
				t.Error("the lease is still held")
			}
		})
	}
}

// A lease counts from before its statement was sent. Counted from the reply, it would be relied on
// for too long if the database answers late.
func TestClaimed_CountsTheLeaseFromItsStatement(t *testing.T) {
	req := Request{UserID: "anna", ModelID: "m", Duration: time.Hour}
	p := pool{"anna", "m"}
	for name, claim := range map[string]func(m *Manager) (*Claim, error){
		"claim": func(m *Manager) (*Claim, error) {
			return (&acquisition{m: m, req: req, pool: p}).claim(t.Context(), t.Context(), place{})
		},
		"reserve": func(m *Manager) (*Claim, error) {
			a := &acquisition{m: m, req: req, pool: p}
			a.queue, a.waiter = m.queues.join(p, "anna", "")
			return a.reserve(t.Context(), t.Context(), headView{}, place{})
		},
		"claimIdle": func(m *Manager) (*Claim, error) { return m.claimIdle(t.Context(), p, req, false) },
	} {
		t.Run(name, func(t *testing.T) {
			m, h := newClaimHarness(t)
			start := time.Now()
			h.now = func() time.Time { return start.Add(h.clock) }
			m.opts.Now = h.now
			m.store = &store{holder: "h", lease: time.Minute, coolDown: time.Minute,
				db: sqldb.New(schematest.SQLite(t), sqldb.Options{MaxConns: 1, Timeout: time.Minute, Observe: func(string, time.Duration, time.Duration, error) { h.clock += time.Second }})}
			m.claims = claimGroup{store: m.store}
			storeHarness{m.store, t}.insertSession("row", "anna", stateOpen, 180, lease{}, "", 0)
			h.clock = 0
			c, err := claim(m)
			if err != nil || c == nil {
				t.Fatalf("claim %v, error %v; want the session", c, err)
			}
			if until := h.held["row"].until.Sub(start); until != 50*time.Second || h.clock == 0 {
				t.Errorf("a lease of a minute, whose statement took %v, is relied on until %v after it was sent; want 50s", h.clock, until)
			}
			c.Release()
		})
	}
}

func TestAcquire_DoesNotOvertakeWaitingRequests(t *testing.T) {
	m, h := newClaimHarness(t)
	h.end(h.use("row", time.Hour), false)
	m.queues.join(pool{}, "anna", "")
	ctx, leave := context.WithCancel(t.Context())
	m.queues.now = func() time.Time { // called when the second request joins the queue
		leave()
		return h.now()
	}
	if c, err := m.acquire(ctx, &acquisition{m: m, req: Request{UserID: "anna"}}); c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("claim %v, error %v; want the request to wait behind the first until it leaves", c, err)
	}
	h.checkPhase("afterwards", "row", lingering)
}

// A claim in the database deletes the place of its request, a hand-over does not.
func TestAcquire_DeletesThePlaceOfARequestThatIsHandedASession(t *testing.T) {
	m, _ := newClaimHarness(t)
	s := storeHarness{m.store, t}
	q, w := m.queues.join(pool{}, "anna", "")
	q.notePlace()
	s.mustExec(`INSERT INTO automation_waiters (id, owner_id, model_id, session_id, omit_provider, since, until) VALUES ($1, '', 'm', '', '', {now}, {in 3600})`, q.id)
	m.leaveQueue(q, w, &Claim{handedOver: true})
	m.work.Wait()
	if left := s.query(`SELECT id FROM automation_waiters`); len(left) != 0 {
		t.Errorf("places %q, want none", left)
	}
}
