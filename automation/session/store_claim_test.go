package session

import (
	"slices"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// annaClaim returns a claim in the pool of anna's sessions of model m. Its request has waited for
// a second.
func annaClaim(next time.Duration) claimRequest {
	return claimRequest{pool: pool{"anna", "m"}, token: "mine", margin: time.Minute, place: place{id: "h-1", waited: time.Second, next: next}}
}

// insertPlace inserts a place of another replica that has waited for an hour for the session of
// the pool, and is kept for a number of seconds.
func (h storeHarness) insertPlace(owner string, keptFor int) {
	h.t.Helper()
	h.mustExec(`INSERT INTO automation_waiters (id, owner_id, model_id, session_id, omit_provider, since, until) VALUES ('other-1', $1, 'm', '', '', {in -3600}, {in $2})`, owner, keptFor)
}

func TestStore_ClaimsForAWaitingRequest(t *testing.T) {
	onBothStores(t, func(h storeHarness) {
		places := func() []string { return h.query(`SELECT id FROM automation_waiters ORDER BY id`) }
		if r, err := h.claim(h.t.Context(), annaClaim(-1)); r != nil || err != nil || !slices.Equal(places(), []string{"h-1"}) {
			h.t.Errorf("without a session: row %v, error %v, places %q; want none and its own place saved", r, err, places())
		}
		h.insertSession("last", "anna", stateOpen, 180, lease{}, "", 0)
		h.insertSession("first", "anna", stateOpen, 120, lease{}, "", 0)
		h.insertPlace("anna", 3600)
		if r, err := h.claim(h.t.Context(), annaClaim(-1)); r != nil || err != nil {
			h.t.Errorf("while an earlier request waits elsewhere: row %v, error %v; want none", r, err)
		}
		h.mustExec(`UPDATE automation_waiters SET until = {in -1} WHERE id = 'other-1'`)
		for _, tt := range []struct {
			next   time.Duration // how long the request behind it has waited, or negative
			id     string
			places []string
		}{{0, "first", []string{"h-1", "other-1"}}, {-1, "last", []string{"other-1"}}} {
			r, err := h.claim(h.t.Context(), annaClaim(tt.next))
			if err != nil || r == nil || r.ID != tt.id {
				h.t.Fatalf("row %v, error %v; want session %q, because the other request's place has expired", r, err, tt.id)
			}
			if !slices.Equal(places(), tt.places) {
				h.t.Errorf("places %q after the claim, want %q", places(), tt.places)
			}
		}
		if holders := h.query(`SELECT DISTINCT lease_holder FROM automation_sessions WHERE lease_until > {in 3000}`); !slices.Equal(holders, []string{"h"}) {
			h.t.Errorf("leases for an hour have the holders %q, want this replica", holders)
		}
	})
}

// A reservation counts a session that is about to be free once, whether it may linger or not. It
// pays for nothing while the outcome of another open is unknown.
func TestStore_ReservesNoMoreThanIsNeeded(t *testing.T) {
	t.Parallel()
	inUse := func(h storeHarness) {
		h.insertSession("in use", "anna", stateOpen, 120, lease{"in use", "other"}, "other", 30)
	}
	for name, tt := range map[string]struct {
		insert         func(h storeHarness)
		waiting        int
		ending         int
		inUseMayLinger bool
		claimed        string
		opens          int
	}{
		"no session":                                 {func(storeHarness) {}, 2, 0, false, "", 2},
		"an open of unknown outcome":                 {func(h storeHarness) { h.insertSession("unknown", "anna", stateUnknown, 120, lease{}, "", 0) }, 2, 0, false, "", 0},
		"a session in use":                           {inUse, 2, 0, false, "", 2},
		"a session in use that may linger":           {inUse, 2, 0, true, "", 1},
		"a session that is released":                 {inUse, 2, 1, false, "", 1},
		"a session that is released, and may linger": {inUse, 2, 1, true, "", 1},
		"a ready session":                            {func(h storeHarness) { h.insertSession("ready", "", stateOpen, 120, lease{}, "", 0) }, 1, 0, false, "ready", 0},
		"a ready session that is leased": {func(h storeHarness) {
			h.insertSession("ready", "", stateOpen, 120, lease{"ready", "other"}, "other", 30)
		}, 1, 0, false, "", 1},
		"a ready session that cools down": {func(h storeHarness) {
			h.insertSession("ready", "", stateOpen, 120, lease{"ready", "other"}, "other", -30)
		}, 1, 0, false, "", 1},
		"a ready session that has cooled down": {func(h storeHarness) {
			h.insertSession("ready", "", stateOpen, 120, lease{"ready", "other"}, "other", -90)
		}, 1, 0, false, "ready", 0},
	} {
		t.Run(name, func(t *testing.T) {
			onBothStores(t, func(h storeHarness) {
				tt.insert(h)
				d := &demand{waiting: tt.waiting, unpaid: tt.waiting, ending: tt.ending, hold: time.Hour, open: time.Second}
				r := reserveRequest{claimRequest: annaClaim(-1), user: "anna", duration: time.Hour, purpose: purposeRequest, demand: d, inUseMayLinger: tt.inUseMayLinger}
				r.ids = newIntents(d, r.purpose)
				res, err := h.reserve(h.t.Context(), r, limits{})
				claimed := ""
				if res.claimed != nil {
					claimed = res.claimed.ID
				}
				if err != nil || claimed != tt.claimed || len(res.opens) != tt.opens {
					h.t.Errorf("claimed %q, %d opens, error %v; want %q and %d", claimed, len(res.opens), err, tt.claimed, tt.opens)
				}
			})
		})
	}
}

// A reservation counts the ready sessions before it claims one. Another replica may claim it in
// between.
func TestStore_ClaimsNoReadySessionThatIsLeased(t *testing.T) {
	onBothStores(t, func(h storeHarness) {
		h.insertSession("leased", "", stateOpen, 120, lease{"leased", "theirs"}, "other", 30)
		h.insertSession("cools down", "", stateOpen, 130, lease{"cools down", "theirs"}, "other", -30)
		h.insertSession("has cooled down", "", stateOpen, 140, lease{"has cooled down", "theirs"}, "other", -90)
		r, err := sqldb.Write(h.t.Context(), h.db, "test", func(tx *sqldb.Tx) (*row, error) {
			return h.claimWith(tx, claimReadyQuery, annaClaim(-1), h.coolDown.Seconds())
		})
		if err != nil || r == nil || r.ID != "has cooled down" || r.OwnerID != "anna" {
			h.t.Errorf("row %+v, error %v; want the session that has cooled down, for anna", r, err)
		}
	})
}
