package session

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// storeHarness is the store of the replica "h".
type storeHarness struct {
	*store
	t *testing.T
}

// onBothStores runs a test with a store on SQLite and with one on PostgreSQL.
func onBothStores(t *testing.T, test func(h storeHarness)) {
	t.Helper()
	t.Parallel()
	for name, open := range map[string]func(testing.TB) *sqlx.DB{
		"sqlite":   schematest.SQLite,
		"postgres": openPostgres,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(storeHarness{&store{db: sqldb.New(open(t), sqldb.Options{MaxConns: 2, Timeout: time.Minute}), holder: "h", lease: time.Hour, coolDown: time.Hour}, t})
		})
	}
}

func openPostgres(tb testing.TB) *sqlx.DB {
	tb.Helper()
	return pgtest.Open(tb, schematest.Database(tb))
}

func (h storeHarness) mustExec(query string, args ...any) {
	h.t.Helper()
	if _, err := sqldb.Exec(h.t.Context(), h.db, "test", query, args...); err != nil {
		h.t.Fatal(err)
	}
}

// insertSession inserts a session of model m that ends after a number of minutes and is leased
// until a number of minutes from now.
func (h storeHarness) insertSession(id, owner, state string, ends int, l lease, holder string, leasedFor int) {
	h.t.Helper()
	h.mustExec(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, duration, state, purpose, provider, created_at, called_at, opened_at, ends_at, last_used_at, next_at, lease_token, lease_holder, lease_until)
		VALUES ($1, $1, 'm', $2, $2, 3600, $3, 'request', '0xp', {now}, {now}, {now}, {in $4}, {now}, {in $4}, NULLIF($5, ''), NULLIF($6, ''), CASE WHEN $5 <> '' THEN {in $7} END)`,
		id, owner, state, 60*ends, l.token, holder, 60*leasedFor)
}

// insertLease inserts a session that is leased for half an hour.
func (h storeHarness) insertLease(id, token, holder string) {
	h.t.Helper()
	h.insertSession(id, "anna", stateOpen, 120, lease{id, token}, holder, 30)
}

func (h storeHarness) query(query string, args ...any) (list []string) {
	h.t.Helper()
	list, err := sqldb.Read(h.t.Context(), h.db, "test", func(tx *sqldb.Tx) (list []string, err error) {
		return list, tx.Select(&list, query, args...)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// leasedRows returns the ids of the leased rows whose lease has not lapsed.
func (h storeHarness) leasedRows() []string {
	return h.query(`SELECT id FROM automation_sessions WHERE lease_until > {now} ORDER BY id`)
}

// A release may come late, after the row was leased again. It must not touch the new lease.
func TestStore_ReleasesOnlyLeasesUnderTheirTokens(t *testing.T) {
	onBothStores(t, func(h storeHarness) {
		for _, list := range [][]lease{{{"again here", "older"}}, {{"again here", "older"}, {"in another replica", "theirs"}, {"mine", "mine"}}} {
			for _, busy := range []bool{false, true} {
				h.mustExec(`DELETE FROM automation_sessions`)
				h.insertLease("again here", "newer", "h")
				h.insertLease("in another replica", "theirs", "other")
				h.insertLease("mine", "mine", "h")
				locked, err := h.releaseUnlocked(h.t.Context(), list, busy)
				want := []string{"again here", "in another replica", "mine"}
				if len(list) > 1 {
					want = want[:2]
				}
				if got := h.leasedRows(); err != nil || len(locked) > 0 || !slices.Equal(got, want) {
					h.t.Errorf("released %v, busy %t: still leased %q, locked %v, error %v; want %q, none locked", list, busy, got, locked, err, want)
				}
			}
		}
	})
}

// If the reply to the release of a busy session is lost, it is repeated. The cool-down must not
// begin again, and the session is not the replica's any more.
func TestStore_BeginsACoolDownOnce(t *testing.T) {
	onBothStores(t, func(h storeHarness) {
		h.insertLease("row", "token", "h")
		for range 2 {
			if locked, err := h.releaseUnlocked(h.t.Context(), []lease{{"row", "token"}}, true); err != nil || len(locked) > 0 {
				h.t.Errorf("locked %v, error %v; want none", locked, err)
			}
			h.mustExec(`UPDATE automation_sessions SET lease_until = {in -60}`)
		}
		locked, err := h.releaseUnlocked(h.t.Context(), []lease{{"row", "token"}}, true)
		if left := h.query(`SELECT id FROM automation_sessions WHERE lease_until < {in -59}`); err != nil || len(locked) > 0 || len(left) != 1 {
			h.t.Errorf("after a repetition locked %v, error %v, %d sessions whose cool-down began a minute ago; want 1", locked, err, len(left))
		}
	})
}

// A row that another transaction has locked delays no other lease.
func TestStore_LeavesOutLockedRows(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	h := storeHarness{&store{db: sqldb.New(db, sqldb.Options{MaxConns: 2, Timeout: time.Minute}), holder: "h", lease: time.Hour, coolDown: time.Hour}, t}
	ids := []string{"free", "locked"}
	for _, id := range ids {
		h.insertLease(id, id, "h")
	}
	tx := db.MustBegin()
	defer func() { _ = tx.Rollback() }()
	tx.MustExec(`SELECT 1 FROM automation_sessions WHERE id = 'locked' FOR UPDATE`)
	extended, locked, err := h.heartbeat(t.Context(), ids)
	if err != nil || len(extended) != 1 || extended["free"].Token != "free" || len(locked) != 1 || locked["locked"] != "locked" {
		t.Errorf("heartbeat: extended %v, locked %v, error %v; want only the free one extended", extended, locked, err)
	}
	for _, busy := range []bool{true, false} {
		unreleased, err := h.releaseUnlocked(t.Context(), []lease{{"free", "free"}, {"locked", "locked"}}, busy)
		if err != nil || !slices.Equal(unreleased, []lease{{"locked", "locked"}}) {
			t.Errorf("release, busy %t: unreleased %v, error %v; want only the locked one", busy, unreleased, err)
		}
	}
}

func TestStore_ExtendsOnlyItsOwnLeases(t *testing.T) {
	onBothStores(t, func(h storeHarness) {
		h.insertLease("mine", "mine", "h")
		h.insertLease("in another replica", "theirs", "other")
		extended, locked, err := h.heartbeat(h.t.Context(), []string{"mine", "in another replica"})
		if err != nil || len(extended) != 1 || extended["mine"].State != stateOpen || len(locked) != 0 {
			h.t.Errorf("extended %v, locked %v, error %v; want only this replica's lease extended", extended, locked, err)
		}
		if got := h.query(`SELECT id FROM automation_sessions WHERE lease_until > {in 2400}`); !slices.Equal(got, []string{"mine"}) {
			h.t.Errorf("leases that last for an hour now: %q, want only this replica's", got)
		}
	})
}

func TestStore_FindsSessionsNeededElsewhere(t *testing.T) {
	for name, tt := range map[string]struct {
		owner, state      string // of the session
		waiter            string // the id of a place in the queue
		user, model       string // for whom and which it waits
		expired, isNeeded bool
	}{
		"nobody waits":                        {"anna", stateOpen, "", "", "", false, false},
		"its user has ended it":               {"anna", stateEnding, "", "", "", false, true},
		"another replica waits for it":        {"anna", stateOpen, "other-1", "anna", "m", false, true},
		"this replica waits for it":           {"anna", stateOpen, "h-1", "anna", "m", false, false},
		"the other one does not wait longer":  {"anna", stateOpen, "other-1", "anna", "m", true, false},
		"its user waits for another model":    {"anna", stateOpen, "other-1", "anna", "m2", false, true},
		"another user waits":                  {"anna", stateOpen, "other-1", "bert", "m", false, false},
		"a shared one, waited for":            {"", stateOpen, "other-1", "", "m", false, true},
		"a shared one, another model's queue": {"", stateOpen, "other-1", "", "m2", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			onBothStores(t, func(h storeHarness) {
				h.insertSession("row", tt.owner, tt.state, 120, lease{"row", "token"}, "h", 30)
				if tt.waiter != "" {
					until := 3600
					if tt.expired {
						until = -3600
					}
					h.mustExec(`INSERT INTO automation_waiters (id, owner_id, model_id, session_id, omit_provider, since, until) VALUES ($1, $2, $3, '', '', {in -7200}, {in $4})`, tt.waiter, tt.user, tt.model, until)
				}
				needed, err := h.neededElsewhere(h.t.Context(), []string{"row"})
				if err != nil || slices.Contains(needed, "row") != tt.isNeeded {
					h.t.Errorf("needed %q, error %v; want the session needed: %t", needed, err, tt.isNeeded)
				}
			})
		})
	}
}

// An undo comes late: the session may be leased again, and the node may have been called.
func TestStore_UndoesOnlyWhatIsUnderItsTokens(t *testing.T) {
	onBothStores(t, func(h storeHarness) {
		h.insertLease("mine", "mine", "h")
		h.insertLease("again", "newer", "h")
		h.insertSession("called", "anna", stateOpening, 120, lease{"called", "called"}, "h", 30)
		h.insertSession("not called", "anna", stateOpening, 120, lease{"not called", "not called"}, "h", 30)
		h.mustExec(`UPDATE automation_sessions SET called_at = NULL WHERE id = 'not called'`)
		claim := claimRequest{pool: pool{"anna", "m"}, token: "mine"}
		err := errors.Join(
			h.undo(h.t.Context(), reserveRequest{claimRequest: claimRequest{token: "older"}, named: "again"}),
			h.undo(h.t.Context(), reserveRequest{claimRequest: claim, ids: []lease{{"called", "called"}, {"not called", "not called"}}}))
		if got, want := h.leasedRows(), []string{"again", "called"}; err != nil || !slices.Equal(got, want) {
			h.t.Errorf("still leased %q, error %v; want %q", got, err, want)
		}
		if got := h.query(`SELECT id FROM automation_sessions WHERE state = 'failed'`); !slices.Equal(got, []string{"not called"}) {
			h.t.Errorf("failed intents %q, want only the one for which the node was not called", got)
		}
	})
}
