package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// groupHarness is a manager with one connection, through a proxy that can hold it up.
type groupHarness struct {
	*session.Manager
	db    *sqlx.DB // past the proxy
	proxy *pgtest.Proxy
	node  *fakeNode
	stop  func()
}

func newGroupHarness(t *testing.T, sqlTimeout time.Duration) *groupHarness {
	t.Helper()
	dsn := schematest.Database(t)
	h := &groupHarness{db: migrated(t, pgtest.Open(t, dsn)), proxy: pgtest.NewProxy(t, dsn), node: &fakeNode{}}
	o := testOptions()
	o.MaxConns, o.MaxPerUser, o.Interval, o.Lease, o.CoolDown = 1, 1, time.Hour, time.Hour, time.Hour
	o.SetSQLTimeout(sqlTimeout)
	h.Manager, h.stop = startManager(t, pgtest.Open(t, h.proxy.DSN()), h.node, o)
	return h
}

// openSessions inserts an open session for each user, whose row has the user's name.
func (h *groupHarness) openSessions(t *testing.T, users ...string) {
	t.Helper()
	for _, user := range users {
		owner, _, _ := strings.Cut(user, "/")
		if _, err := h.db.Exec(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, provider, created_at, called_at, opened_at, ends_at, last_used_at, next_at)
			VALUES ($1, '0x' || md5($1), $2, $3, $3, now(), 3600, 'open', '0xp', now(), now(), now(), now() + interval '1 day', now(), now() + interval '1 day')`,
			user, modelA, owner); err != nil {
			t.Fatal(err)
		}
	}
}

// leasedRows returns the rows that somebody holds.
func (h *groupHarness) leasedRows(t *testing.T) []string {
	t.Helper()
	list := []string{}
	if err := h.db.Select(&list, `SELECT id FROM automation_sessions WHERE lease_token IS NOT NULL ORDER BY id`); err != nil {
		t.Fatal(err)
	}
	return list
}

// blockConnection stops the proxy while the only connection is in use. Thaw ends it.
func (h *groupHarness) blockConnection(t *testing.T) {
	t.Helper()
	h.proxy.Freeze()
	go func() { _, _ = h.List(context.WithoutCancel(t.Context()), "nobody") }()
	waitUntil(t, "the connection is in use", h.IsBusy)
}

// claimWhileBlocked has each user claim, one after the other, while the connection is in use, then calls
// then, and returns the rows that they got and their errors.
func (h *groupHarness) claimWhileBlocked(t *testing.T, then func(), users ...string) (got []string, errs []error) {
	t.Helper()
	h.blockConnection(t)
	h.proxy.TakeTraffic()
	got, errs = make([]string, len(users)), make([]error, len(users))
	var wg sync.WaitGroup
	var ended atomic.Int64
	for i, user := range users {
		wg.Go(func() {
			got[i], _, errs[i] = h.TryClaim(t.Context(), requestFor(user), false)
			ended.Add(1)
		})
		waitUntil(t, "it waits, or its time is over", func() bool { return h.GroupedClaims()+int(ended.Load()) == i+1 })
	}
	then()
	wg.Wait()
	return got, errs
}

// countClaimStatements is how many statements claimed since the connection was held up.
func (h *groupHarness) countClaimStatements() (n int) {
	for query, times := range h.proxy.TakeTraffic().Queries {
		if strings.Contains(query, "SKIP LOCKED") {
			n += times
		}
	}
	return n
}

func TestClaimGroup_ClaimsForAllThatWaitInOneStatement(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	users := names("user", 40)
	h.openSessions(t, users[1:]...) // the first one has no session
	want := slices.Clone(users)
	want[0] = ""
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, users...)
	if err := errors.Join(errs...); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want each its own session", got, err)
	}
	if n := h.countClaimStatements(); n != 2 {
		t.Errorf("%d statements for 40 claims, want 2 of at most 32", n)
	}
}

func TestClaimGroup_GivesRequestsOfOneUserDifferentSessions(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna/1", "anna/2", "bert")
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, "anna", "bert", "anna", "anna")
	if err := errors.Join(errs...); err != nil || got[1] != "bert" || got[3] != "" {
		t.Errorf("got %q, %v; want bert his own, and nothing left for the last", got, err)
	}
	if !slices.Equal(h.leasedRows(t), []string{"anna/1", "anna/2", "bert"}) || got[0] == got[2] {
		t.Errorf("got %q of the rows %q", got, h.leasedRows(t))
	}
}

// What keeps a session from being claimed must keep it from a group as well, also where an id that
// is not ASCII has the statement sent with parameters.
func TestClaimGroup_FindsWhatAClaimAloneFinds(t *testing.T) {
	t.Parallel()
	for _, last := range []string{`it's \ "quoted"`, "Zoë"} {
		t.Run(last, func(t *testing.T) {
			t.Parallel()
			h := newGroupHarness(t, time.Minute)
			users := []string{"idle", "leased", "cools down", "has cooled down", "ends soon", "is closed", "waits elsewhere", "waits elsewhere for another", "other model", last}
			h.openSessions(t, users...)
			for _, q := range []string{
				`UPDATE automation_sessions SET lease_token = 't', lease_holder = 'h', lease_until = now() + interval '1 hour' WHERE id = 'leased'`,
				`UPDATE automation_sessions SET lease_token = 't', lease_holder = 'h', lease_until = now() - interval '1 minute' WHERE id = 'cools down'`,
				`UPDATE automation_sessions SET lease_token = 't', lease_holder = 'h', lease_until = now() - interval '2 hours' WHERE id = 'has cooled down'`,
				`UPDATE automation_sessions SET ends_at = now() + interval '1 second' WHERE id = 'ends soon'`,
				`UPDATE automation_sessions SET state = 'closed', closed_at = now() WHERE id = 'is closed'`,
				`UPDATE automation_sessions SET model_id = 'another' WHERE id = 'other model'`,
				`INSERT INTO automation_waiters (id, owner_id, model_id, session_id, omit_provider, since, until)
					SELECT id, owner_id, model_id, '', '', now() - interval '1 minute', now() + interval '1 hour' FROM automation_sessions WHERE id LIKE 'waits%'`,
				`UPDATE automation_waiters SET omit_provider = '0xp' WHERE id LIKE '%another'`,
			} {
				if _, err := h.db.Exec(q); err != nil {
					t.Fatal(err)
				}
			}
			alone := make([]string, len(users))
			for i, user := range users {
				id, release, err := h.TryClaim(t.Context(), requestFor(user), true)
				if release != nil {
					err = errors.Join(err, release())
				}
				if alone[i] = id; err != nil {
					t.Error(user, err)
				}
			}
			got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, users...)
			want := []string{"idle", "", "", "has cooled down", "", "", "", "waits elsewhere for another", "", last}
			if err := errors.Join(errs...); err != nil || !slices.Equal(alone, want) || !slices.Equal(got, want) {
				t.Errorf("alone %q, together %q, %v; want %q", alone, got, err, want)
			}
			if n := h.countClaimStatements(); n != 1 {
				t.Errorf("%d statements, want one", n)
			}
		})
	}
}

func TestClaimGroup_OmitsEachRequestsProviderAlone(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert")
	h.blockConnection(t)
	var anna, bert string
	var wg sync.WaitGroup
	wg.Go(func() {
		r := requestFor("anna")
		r.OmitProvider = "0xp"
		anna, _, _ = h.TryClaim(t.Context(), r, false)
	})
	wg.Go(func() { bert, _, _ = h.TryClaim(t.Context(), requestFor("bert"), false) })
	waitUntil(t, "both wait", func() bool { return h.GroupedClaims() == 2 })
	h.proxy.Thaw()
	wg.Wait()
	if anna != "" || bert != "bert" {
		t.Errorf("anna, whose provider will not do, got %q, and bert %q", anna, bert)
	}
}

func TestClaimGroup_IsNotHeldUpByALockedRow(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert")
	tx := h.db.MustBegin()
	defer func() { _ = tx.Rollback() }()
	tx.MustExec(`SELECT 1 FROM automation_sessions WHERE id = 'anna' FOR UPDATE`)
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, "anna", "bert")
	if err := errors.Join(errs...); err != nil || !slices.Equal(got, []string{"", "bert"}) {
		t.Errorf("got %q, %v; want bert's while anna's is locked", got, err)
	}
}

func TestClaimGroup_TakesBackWhatARequestNoLongerWaitsFor(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert", "carl", "dora")
	ctx, cancel := context.WithCancel(t.Context())
	early, cancelEarly := context.WithCancel(t.Context())
	defer cancel()
	defer cancelEarly()
	users := []string{"anna", "bert", "carl", "dora"}
	contexts := []context.Context{ctx, t.Context(), early, t.Context()}
	executed := make(chan struct{})
	h.proxy.LoseReplies(func(tag string) bool {
		if tag == "UPDATE 3" || tag == "SELECT 3" { // pgx reads the rows of the statement in a SELECT
			h.proxy.Freeze()
			close(executed)
		}
		return false
	})
	h.blockConnection(t)
	got, errs := make([]string, len(users)), make([]error, len(users))
	var wg sync.WaitGroup
	left := make(chan int, len(users))
	for i, user := range users {
		wg.Go(func() {
			got[i], _, errs[i] = h.TryClaim(contexts[i], requestFor(user), false)
			left <- i
		})
		waitUntil(t, "it waits", func() bool { return h.GroupedClaims() == i+1 })
	}
	cancelEarly() // before the statement is sent
	if i := <-left; i != 2 {
		t.Errorf("%s has returned, want carl", users[i])
	}
	h.proxy.Thaw()
	<-executed
	cancel() // while the statement's outcome is on its way
	if i := <-left; i != 0 {
		t.Errorf("%s has returned, want anna", users[i])
	}
	if leased := h.leasedRows(t); !slices.Equal(leased, []string{"anna", "bert", "dora"}) {
		t.Errorf("the statement has claimed %q", leased)
	}
	h.proxy.Thaw()
	wg.Wait()
	for i, want := range []string{"", "bert", "", "dora"} {
		if got[i] != want || (want == "") != errors.Is(errs[i], sqldb.ErrUnavailable) || (want == "") != errors.Is(errs[i], context.Canceled) {
			t.Errorf("%s got %q, %v", users[i], got[i], errs[i])
		}
	}
	waitUntil(t, "anna's session is free again", func() bool { return slices.Equal(h.leasedRows(t), []string{"bert", "dora"}) })
}

func TestClaimGroup_LosesNoSessionWithALostReply(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	users := names("user", 3)
	h.openSessions(t, users...)
	lost := false
	h.proxy.LoseReplies(func(tag string) bool {
		first := !lost && (tag == "UPDATE 3" || tag == "SELECT 3")
		lost = lost || first
		return first
	})
	h.blockConnection(t)
	var wg sync.WaitGroup
	for i, user := range users {
		wg.Go(func() {
			c, err := h.Acquire(t.Context(), requestFor(user))
			if err != nil {
				t.Error(err)
				return
			}
			c.Release()
		})
		waitUntil(t, "it waits", func() bool { return h.GroupedClaims() == i+1 })
	}
	h.proxy.Thaw()
	wg.Wait()
	if h.proxy.Lost() != 1 || h.node.openCalls() != 0 {
		t.Errorf("%d replies lost, %d sessions paid; want 1, 0", h.proxy.Lost(), h.node.openCalls())
	}
	h.stop()
	if leased := h.leasedRows(t); len(leased) != 0 {
		t.Errorf("%q are still leased", leased)
	}
}

func TestClaimGroup_IsNotSpoiledByOneThatTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert")
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, "anna", "a\x00", "bert")
	if !slices.Equal(got, []string{"anna", "", "bert"}) || errs[0] != nil || !sqldb.IsConstraint(errs[1]) || errs[2] != nil {
		t.Errorf("got %q, %v; want an error for the one in the middle alone", got, errs)
	}
}

func TestClaimGroup_ReportsThatNoConnectionCameFree(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, 200*time.Millisecond)
	users := names("user", 3)
	h.openSessions(t, users...)
	got, errs := h.claimWhileBlocked(t, func() {}, users...)
	for i, err := range errs {
		if got[i] != "" || !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s got %q, %v; want ErrUnavailable by the deadline", users[i], got[i], err)
		}
	}
	h.proxy.Thaw()
	waitUntil(t, "the connection is free", func() bool { return !h.IsBusy() })
	if leased, n := h.leasedRows(t), h.GroupedClaims(); len(leased) != 0 || n != 0 {
		t.Errorf("afterwards %q are leased and %d claims wait", leased, n)
	}
}

func TestClaimGroup_EndsWithTheManager(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.stop()
	h.blockConnection(t)
	if id, _, err := h.TryClaim(t.Context(), requestFor("anna"), false); id != "" || !errors.Is(err, session.ErrNotRunning) {
		t.Errorf("%q, %v; want ErrNotRunning", id, err)
	}
	h.proxy.Thaw()
}

// BenchmarkClaims_ThatWait has claims of many users find all connections in use, each alone and
// together, in turn on the same server: with the eight connections that sessions have by
// default.
//
//	AUTOMATION_TEST_LONG=1 go test ./automation/session -run xxx -bench Claims_ThatWait -benchtime 9x
func BenchmarkClaims_ThatWait(b *testing.B) {
	for _, rows := range benchmarkRows() {
		b.Run(fmt.Sprint("rows=", rows), func(b *testing.B) {
			cluster := pgtest.Start(b, pgtest.Options{Settings: map[string]string{"shared_buffers": "256MB"}})
			db := pgtest.Open(b, cluster.DSN("postgres"))
			db.SetMaxOpenConns(16)
			db.SetMaxIdleConns(16)
			if _, err := schema.Migrate(b.Context(), db); err != nil {
				b.Fatal(err)
			}
			users := insertUsers(b, db, rows)
			m := runManager(b, db, 8)
			for _, clients := range []int{1, 32, 256} {
				b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
					var alone, together claimRounds
					for b.Loop() {
						alone.run(b, m, clients, users/clients, true)
						together.run(b, m, clients, users/clients, false)
					}
					b.ReportMetric(0, "ns/op")
					alone.report(b, "alone")
					together.report(b, "together")
				})
			}
		})
	}
}

// claimRounds are rounds of claims and releases, of a second each.
type claimRounds struct{ perSecond, p50, p99 []float64 }

func (c *claimRounds) run(b *testing.B, m *session.Manager, clients, users int, alone bool) {
	b.Helper()
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	begun := time.Now()
	for client := range clients {
		wg.Go(func() {
			for time.Since(begun) < time.Second {
				at := time.Now()
				r := session.Request{UserID: fmt.Sprint("user-", 1+client+clients*rand.IntN(users)), ModelID: "model", Duration: time.Hour}
				_, release, err := m.TryClaim(b.Context(), r, alone)
				if err != nil || release == nil {
					b.Error("no session", err)
					return
				}
				took[client] = append(took[client], time.Since(at))
				if err := release(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	c.perSecond = append(c.perSecond, float64(len(all))/time.Since(begun).Seconds())
	slices.Sort(all)
	c.p50 = append(c.p50, float64(all[len(all)/2].Microseconds())/1000)
	c.p99 = append(c.p99, float64(all[len(all)*99/100].Microseconds())/1000)
}

// report reports the medians of the rounds.
func (c *claimRounds) report(b *testing.B, name string) {
	b.Helper()
	b.ReportMetric(median(c.perSecond), name+"-claims/s")
	b.ReportMetric(median(c.p50), name+"-p50-ms")
	b.ReportMetric(median(c.p99), name+"-p99-ms")
}

func median(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }
