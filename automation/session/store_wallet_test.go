package session

import (
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// After a collision, each call keeps the wallet for a while. The test counts how many calls begin
// in the time that serial calls would take one after the other, and how far apart the last two are.
func TestHoldAfterCollision_LetsAQueueThrough(t *testing.T) {
	const poll = 25 * time.Millisecond // how often a replica checks whether its call may begin
	for name, tc := range map[string]struct {
		call     time.Duration
		serial   int // calls
		minCalls int
		minGap   time.Duration // between the last two
	}{
		"a simulated node":                 {280 * time.Millisecond, 35, 150, 0},
		"a node with a chain":              {3 * time.Second, 3, 8, 500 * time.Millisecond},
		"the same, for half a minute":      {3 * time.Second, 10, 50, 100 * time.Millisecond},
		"a node with a slow chain":         {8 * time.Second, 3, 8, time.Second},
		"a chain that makes no new blocks": {3 * time.Minute, 1, 1, sendTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			begun, last := 0, time.Duration(0)
			for since := time.Duration(0); since < time.Duration(tc.serial)*tc.call; begun++ {
				last = holdAfterCollision(since, tc.call)
				since += min(max(last, poll), tc.call)
			}
			t.Logf("%d calls begin within %v, the last two %v apart", begun, time.Duration(tc.serial)*tc.call, last)
			if begun < tc.minCalls || last < tc.minGap {
				t.Errorf("%d calls begin, the last two %v apart; want at least %d calls, %v apart", begun, last, tc.minCalls, tc.minGap)
			}
		})
	}
	if first := holdAfterCollision(-time.Hour, time.Second); first != time.Second/2 {
		t.Errorf("the first call keeps the wallet for %v, want half a call's time", first)
	}
}

// A call that no longer keeps the wallet may not have sent its transaction yet. A retry after a
// collision would collide with it again.
func TestBeginCall_DelaysARetryUntilOtherCallsHaveEnded(t *testing.T) {
	s := &store{db: sqldb.New(schematest.SQLite(t), sqldb.Options{MaxConns: 1, Timeout: time.Minute}), holder: "h", lease: time.Hour}
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := sqldb.Exec(t.Context(), s.db, "test", query, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"first", "collided", "third"} {
		exec(`INSERT INTO automation_sessions (id, model_id, owner_id, user_id, duration, state, purpose, created_at, next_at, lease_token, lease_holder, lease_until)
			VALUES ($1, 'm', 'u', 'u', 3600, 'opening', 'request', {now}, {in 3600}, $1, 'h', {in 3600})`, id)
	}
	begins := func(id string, exclusive bool) bool {
		t.Helper()
		called, err := s.beginCall(t.Context(), lease{id, id}, exclusive, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return !called.IsZero()
	}
	ends := func(id string) { exec(`UPDATE automation_sessions SET lane = '' WHERE id = $1`, id) }

	if !begins("first", false) || !begins("collided", false) {
		t.Fatal("two calls cannot begin at the same time before a collision")
	}
	if err := s.collided(t.Context(), lease{"collided", "collided"}); err != nil {
		t.Fatal(err)
	}
	exec(`UPDATE automation_sessions SET lane_until = {in -1} WHERE id = 'first'`)
	if begins("collided", true) {
		t.Error("the retry begins while a call may not have sent its transaction")
	}
	if begins("third", false) {
		t.Error("a call begins while a retry waits")
	}
	ends("first")
	if !begins("collided", true) {
		t.Error("the retry does not begin though no other call is under way")
	}
	if begins("third", false) {
		t.Error("a call begins while a retry has the wallet")
	}
	ends("collided")
	if !begins("third", false) {
		t.Error("no call begins after the retry")
	}
}
