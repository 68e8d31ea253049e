package session

import (
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// A call whose hold on the wallet is over may still not have sent its
// transaction, with which a repeat would collide again.
func TestBeginCall_LetsARepeatWaitForTheCallsUnderWay(t *testing.T) {
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
		t.Fatal("calls do not begin next to one another before a collision")
	}
	if err := s.collided(t.Context(), lease{"collided", "collided"}); err != nil {
		t.Fatal(err)
	}
	exec(`UPDATE automation_sessions SET lane_until = {in -1} WHERE id = 'first'`)
	if begins("collided", true) {
		t.Error("the repeat does not wait for a call that may not have sent its transaction")
	}
	if begins("third", false) {
		t.Error("a call begins while a repeat waits")
	}
	ends("first")
	if !begins("collided", true) {
		t.Error("the repeat does not begin when nobody else calls")
	}
	if begins("third", false) {
		t.Error("a call begins next to a repeat")
	}
	ends("collided")
	if !begins("third", false) {
		t.Error("a call does not begin after the repeat")
	}
}
