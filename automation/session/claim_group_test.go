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

// groupHarness is a manager with a single connection, through a proxy that can freeze it.
type groupHarness struct {
	*session.Manager
	db    *sqlx.DB // directly, not through the proxy
	proxy *pgtest.Proxy
	node  *fakeNode
	stop  func()
}

func newGroupHarness(t *testing.T, sqlTimeout time.Duration) *groupHarness {
	t.Helper()
	dsn := schematest.Database(t)
	h := &groupHarness{db: pgtest.Open(t, dsn), proxy: pgtest.NewProxy(t, dsn), node: &fakeNode{}}
	o := testOptions()
	o.MaxConns, o.MaxPerUser, o.Interval, o.Lease, o.CoolDown = 1, 1, time.Hour, time.Hour, time.Hour
	o.SetSQLTimeout(sqlTimeout)
	h.Manager, h.stop = startManager(t, pgtest.Open(t, h.proxy.DSN()), h.node, o)
	return h
}

// openSessions inserts an open session for each of the ids. The row's owner is the part of its
// id before a slash.
func (h *groupHarness) openSessions(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		owner, _, _ := strings.Cut(id, "/")
		if _, err := h.db.Exec(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, provider, created_at, called_at, opened_at, ends_at, last_used_at, next_at)
			VALUES ($1, '0x' || md5($1), $2, $3, $3, now(), 3600, 'open', '0xp', now(), now(), now(), now() + interval '1 day', now(), now() + interval '1 day')`,
			id, modelA, owner); err != nil {
			t.Fatal(err)
		}
	}
}

// leasedRows returns the ids of all leased rows, in order.
func (h *groupHarness) leasedRows(t *testing.T) []string {
	t.Helper()
	list := []string{}
	if err := h.db.Select(&list, `SELECT id FROM automation_sessions WHERE lease_token IS NOT NULL ORDER BY id`); err != nil {
		t.Fatal(err)
	}
	return list
}

// blockConnection keeps the manager's only connection in use until the proxy is thawed.
func (h *groupHarness) blockConnection(t *testing.T) {
	t.Helper()
	h.proxy.Freeze()
	go func() { _, _ = h.List(context.WithoutCancel(t.Context()), "nobody") }()
	waitUntil(t, "the connection is in use", h.IsBusy)
}

// claimWhileBlocked starts a claim of each user, in order, while the connection is in use, and
// then calls unblock. It returns the id of the row that each user got, or "", and the errors.
func (h *groupHarness) claimWhileBlocked(t *testing.T, unblock func(), users ...string) (got []string, errs []error) {
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
		waitUntil(t, "the claim waits or has timed out", func() bool { return h.GroupedClaims()+int(ended.Load()) == i+1 })
	}
	unblock()
	wg.Wait()
	return got, errs
}

// countClaimStatements returns how many statements claimed sessions since claimWhileBlocked began.
func (h *groupHarness) countClaimStatements() (n int) {
	for query, times := range h.proxy.TakeTraffic().Queries {
		if strings.Contains(query, "SKIP LOCKED") {
			n += times
		}
	}
	return n
}

func TestClaimGroup_ClaimsForAllWaitingRequestsTogether(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	users := names("user", 40)
	h.openSessions(t, users[1:]...) // users[0] has none
	want := slices.Clone(users)
	want[0] = ""
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, users...)
	if err := errors.Join(errs...); err != nil || !slices.Equal(got, want) {
		t.Errorf("the users got %q, error %v; want %q", got, err, want)
	}
	if n := h.countClaimStatements(); n != 2 {
		t.Errorf("40 claims took %d statements, want 2 of up to 32 claims each", n)
	}
	var holders []string // a lease without its holder would not be extended
	if err := h.db.Select(&holders, `SELECT DISTINCT lease_holder FROM automation_sessions WHERE lease_token IS NOT NULL`); err != nil || len(holders) != 1 || holders[0] == "" {
		t.Errorf("the leases have the holders %q, error %v; want this replica", holders, err)
	}
}

func TestClaimGroup_GivesRequestsOfOneUserDifferentSessions(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna/1", "anna/2", "bert")
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, "anna", "bert", "anna", "anna")
	if err := errors.Join(errs...); err != nil || got[1] != "bert" || got[3] != "" {
		t.Errorf("anna, bert, anna and anna got %q, error %v; want bert's session for bert, and none for the last", got, err)
	}
	if !slices.Equal(h.leasedRows(t), []string{"anna/1", "anna/2", "bert"}) || got[0] == got[2] {
		t.Errorf("anna, bert, anna and anna got %q, leased are %q; want every session leased once", got, h.leasedRows(t))
	}
}

// A session that a single claim skips, a grouped claim must skip too. Both forms of the statement
// are tried: with an id that is not ASCII it is sent with parameters.
func TestClaimGroup_FindsTheSameSessionsAsASingleClaim(t *testing.T) {
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
			single := make([]string, len(users))
			for i, user := range users {
				id, release, err := h.TryClaim(t.Context(), requestFor(user), true)
				if release != nil {
					err = errors.Join(err, release())
				}
				single[i] = id
				if err != nil {
					t.Errorf("single claim of %q: %v", user, err)
				}
			}
			got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, users...)
			want := []string{"idle", "", "", "has cooled down", "", "", "", "waits elsewhere for another", "", last}
			if err := errors.Join(errs...); err != nil || !slices.Equal(single, want) || !slices.Equal(got, want) {
				t.Errorf("single claims got %q, grouped ones %q, error %v; want %q", single, got, err, want)
			}
			if n := h.countClaimStatements(); n != 1 {
				t.Errorf("the group took %d statements, want 1", n)
			}
		})
	}
}

func TestClaimGroup_OmitsAProviderForItsRequestOnly(t *testing.T) {
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
	waitUntil(t, "both claims wait", func() bool { return h.GroupedClaims() == 2 })
	h.proxy.Thaw()
	wg.Wait()
	if anna != "" || bert != "bert" {
		t.Errorf("anna, who omits the provider of her session, got %q, and bert got %q; want none and bert's", anna, bert)
	}
}

func TestClaimGroup_SkipsALockedRow(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert")
	tx := h.db.MustBegin()
	defer func() { _ = tx.Rollback() }()
	tx.MustExec(`SELECT 1 FROM automation_sessions WHERE id = 'anna' FOR UPDATE`)
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, "anna", "bert")
	if err := errors.Join(errs...); err != nil || !slices.Equal(got, []string{"", "bert"}) {
		t.Errorf("anna, whose row is locked, and bert got %q, error %v; want only bert to get a session", got, err)
	}
}

func TestClaimGroup_ReleasesTheSessionOfACancelledRequest(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert", "carl", "dora")
	annaCtx, cancelAnna := context.WithCancel(t.Context())
	carlCtx, cancelCarl := context.WithCancel(t.Context())
	defer cancelAnna()
	defer cancelCarl()
	users := []string{"anna", "bert", "carl", "dora"}
	contexts := []context.Context{annaCtx, t.Context(), carlCtx, t.Context()}
	executed := make(chan struct{})
	h.proxy.LoseReplies(func(tag string) bool {
		if tag == "UPDATE 3" || tag == "SELECT 3" { // for pgx the statement is wrapped in a SELECT
			h.proxy.Freeze()
			close(executed)
		}
		return false
	})
	h.blockConnection(t)
	got, errs := make([]string, len(users)), make([]error, len(users))
	var wg sync.WaitGroup
	returned := make(chan int, len(users))
	for i, user := range users {
		wg.Go(func() {
			got[i], _, errs[i] = h.TryClaim(contexts[i], requestFor(user), false)
			returned <- i
		})
		waitUntil(t, "the claim waits", func() bool { return h.GroupedClaims() == i+1 })
	}
	cancelCarl() // before the statement is sent
	if i := <-returned; i != 2 {
		t.Errorf("the claim of %s returned after carl's was cancelled", users[i])
	}
	h.proxy.Thaw()
	<-executed
	cancelAnna() // after the statement was executed and before its result arrives
	if i := <-returned; i != 0 {
		t.Errorf("the claim of %s returned after anna's was cancelled", users[i])
	}
	if leased := h.leasedRows(t); !slices.Equal(leased, []string{"anna", "bert", "dora"}) {
		t.Errorf("the statement leased %q, want the sessions of anna, bert and dora", leased)
	}
	h.proxy.Thaw()
	wg.Wait()
	for i, want := range []string{"", "bert", "", "dora"} {
		cancelled := want == ""
		if got[i] != want || cancelled != errors.Is(errs[i], sqldb.ErrUnavailable) || cancelled != errors.Is(errs[i], context.Canceled) {
			t.Errorf("%s got %q, error %v; want %q, cancelled: %t", users[i], got[i], errs[i], want, cancelled)
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
		waitUntil(t, "the claim waits", func() bool { return h.GroupedClaims() == i+1 })
	}
	h.proxy.Thaw()
	wg.Wait()
	if h.proxy.Lost() != 1 || h.node.openCalls() != 0 {
		t.Errorf("%d replies lost, %d sessions opened; want 1 and 0", h.proxy.Lost(), h.node.openCalls())
	}
	h.stop()
	if leased := h.leasedRows(t); len(leased) != 0 {
		t.Errorf("after the stop %q are still leased", leased)
	}
}

func TestClaimGroup_FailsOnlyTheClaimThatTheDatabaseRejects(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.openSessions(t, "anna", "bert")
	got, errs := h.claimWhileBlocked(t, h.proxy.Thaw, "anna", "a\x00", "bert")
	if !slices.Equal(got, []string{"anna", "", "bert"}) || errs[0] != nil || !sqldb.IsConstraint(errs[1]) || errs[2] != nil {
		t.Errorf("anna, the invalid user and bert got %q, errors %v; want a constraint error for the invalid user only", got, errs)
	}
}

func TestClaimGroup_ReportsWhenNoConnectionBecomesFree(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, 200*time.Millisecond)
	users := names("user", 3)
	h.openSessions(t, users...)
	got, errs := h.claimWhileBlocked(t, func() {}, users...)
	for i, err := range errs {
		if got[i] != "" || !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s got %q, error %v; want ErrUnavailable and DeadlineExceeded", users[i], got[i], err)
		}
	}
	h.proxy.Thaw()
	waitUntil(t, "the connection is free", func() bool { return !h.IsBusy() })
	if leased, n := h.leasedRows(t), h.GroupedClaims(); len(leased) != 0 || n != 0 {
		t.Errorf("afterwards %q are leased and %d claims wait, want none", leased, n)
	}
}

func TestClaimGroup_EndsWithTheManager(t *testing.T) {
	t.Parallel()
	h := newGroupHarness(t, time.Minute)
	h.stop()
	h.blockConnection(t)
	if id, _, err := h.TryClaim(t.Context(), requestFor("anna"), false); id != "" || !errors.Is(err, session.ErrNotRunning) {
		t.Errorf("after the stop a claim got %q, error %v; want ErrNotRunning", id, err)
	}
	h.proxy.Thaw()
}

// BenchmarkClaims_ThatWait compares single with grouped claims while all connections are in use.
// Many users claim over eight connections, the default for sessions, in alternating rounds.
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
					var single, grouped claimRounds
					for b.Loop() {
						single.run(b, m, clients, users/clients, true)
						grouped.run(b, m, clients, users/clients, false)
					}
					b.ReportMetric(0, "ns/op")
					single.report(b, "single")
					grouped.report(b, "grouped")
				})
			}
		})
	}
}

// claimRounds holds what rounds of one second measured: claims a second, and the percentiles of
// a claim's latency in ms.
type claimRounds struct{ perSecond, p50, p99 []float64 }

// run adds a round in which each client claims and releases sessions of users of its own.
func (c *claimRounds) run(b *testing.B, m *session.Manager, clients, users int, single bool) {
	b.Helper()
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	begun := time.Now()
	for client := range clients {
		wg.Go(func() {
			for time.Since(begun) < time.Second {
				at := time.Now()
				r := session.Request{UserID: fmt.Sprint("user-", 1+client+clients*rand.IntN(users)), ModelID: "model", Duration: time.Hour}
				_, release, err := m.TryClaim(b.Context(), r, single)
				if err != nil || release == nil {
					b.Errorf("no session for %s, error %v", r.UserID, err)
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
