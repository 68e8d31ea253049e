package rollout_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// secret is "whsec_" and the bytes of key in base64.
const (
	key    = "0123456789abcdef01234567"
	secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
)

// verify checks a signature by the words of the specification. The official
// libraries do the same in e2e/webhooks.
func (r request) verify(t *testing.T) {
	t.Helper()
	id, at := r.header.Get("webhook-id"), r.header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(id + "." + at + "." + string(r.body)))
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.header.Get("webhook-signature") != want {
		t.Errorf("signed %q, want %q", r.header.Get("webhook-signature"), want)
	}
	if seconds, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute || id == "" || strings.Contains(id, ".") {
		t.Errorf("id %q at %q, %v", id, at, err)
	}
}

// event reads the body of a message about a rollout.
func (r request) event(t *testing.T) rollout.Event {
	t.Helper()
	var body struct {
		Type      string        `json:"type"`
		Timestamp time.Time     `json:"timestamp"`
		Data      rollout.Event `json:"data"`
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		t.Fatal(err)
	}
	if body.Type != "rollout."+string(body.Data.Action) || !body.Timestamp.Equal(body.Data.At.Time) {
		t.Errorf("%s", r.body)
	}
	return body.Data
}

// receiver keeps what it is sent, and answers as it is told.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	answer   func(n int) int // to the nth request, the first is 1
}

type request struct {
	header http.Header
	body   []byte
}

func newReceiver(t *testing.T, answer func(n int) int) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.requests = append(r.requests, request{req.Header, body})
		n := len(r.requests)
		r.mu.Unlock()
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(r.answer(n))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) got() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func always(status int) func(int) int { return func(int) int { return status } }

// known waits until so many receivers are known to whoever writes events.
func (h *harness) known(want int) {
	h.t.Helper()
	until(h.t, "the receivers are known", func() bool {
		var n int
		return h.db.Get(&n, `SELECT count(*) FROM automation_rollout_receivers`) == nil && n == want
	})
}

// awaitLaterClock waits until the database's clock is past the last change of a
// flag: SQLite's has milliseconds, and a receiver that registers within the same one
// is told of the change.
func (h *harness) awaitLaterClock() {
	h.t.Helper()
	now := `now()`
	if h.isSQLite() {
		now = `strftime('%Y-%m-%d %H:%M:%f', 'now')`
	}
	until(h.t, "the database's clock has moved on", func() bool {
		var n int
		return h.db.Get(&n, `SELECT count(*) FROM feature_flag_events WHERE changed_at >= `+now) == nil && n == 0
	})
}

func TestOutbox_ForgetsUnknownReceivers(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		h.sql(`INSERT INTO automation_rollout_receivers (name, seen_at) VALUES ('gone', '2020-01-01 00:00:00.000'), ('known', '2100-01-01 00:00:00.000')`)
		h.create(hours())
		var names []string
		if err := h.db.Select(&names, `SELECT receiver FROM automation_rollout_outbox`); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"known"}, names); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWebhooks_AreSignedAndSentInOrder(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		r := newReceiver(t, func(n int) int {
			if n == 1 || n == 3 { // refused, and comes again
				return http.StatusServiceUnavailable
			}
			return http.StatusNoContent
		})
		hook := rollout.Webhook{Name: "ops", URL: r.URL + "/hook?token=hidden", Secret: secret}
		var out bytes.Buffer
		mine := rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{hook}, Logger: slog.New(slog.NewTextHandler(&out, nil))}
		stop := h.start(h.newController(mine))
		h.known(1)
		// By a controller that knows no webhooks, such as the operators' command.
		h.create(hours())
		h.do(rollout.ActionStart)
		h.do(rollout.ActionPause)
		until(t, "all have been sent", func() bool {
			h.sql(`UPDATE automation_rollout_outbox SET next_at = created_at WHERE last_error <> ''`) // do not wait for the second try
			var unsent int
			if err := h.db.Get(&unsent, `SELECT count(*) FROM automation_rollout_outbox WHERE sent_at IS NULL`); err != nil {
				t.Fatal(err)
			}
			return unsent == 0
		})
		stop()
		var seqs []int64
		ids := map[string]bool{}
		for _, one := range r.got() {
			one.verify(t)
			seqs = append(seqs, one.event(t).Seq)
			ids[one.header.Get("webhook-id")] = true
		}
		if diff := cmp.Diff([]int64{1, 1, 2, 2, 3}, seqs); diff != "" {
			t.Error(diff)
		}
		if len(ids) != 3 {
			t.Errorf("three events have the ids %v", ids)
		}
		if s := out.String(); strings.Contains(s, "hidden") || strings.Contains(s, secret) || !strings.Contains(s, "the receiver answered 503") {
			t.Error(s)
		}
	})
}

func TestWebhooks_AreNotDelayedByAnotherReceiver(t *testing.T) {
	h := newHarness(t, sqlite(t))
	hang := make(chan struct{})
	stuck := newReceiver(t, func(int) int { <-hang; return http.StatusOK })
	t.Cleanup(func() { close(hang) })
	good := newReceiver(t, always(http.StatusOK))
	hooks := []rollout.Webhook{{Name: "stuck", URL: stuck.URL, Secret: secret}, {Name: "good", URL: good.URL, Secret: secret}}
	c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, Webhooks: hooks})
	stop := h.start(c)
	h.known(2)
	h.create(hours())
	until(t, "the other has it", func() bool { return len(good.got()) == 1 && len(stuck.got()) == 1 })
	h.do(rollout.ActionStart)
	until(t, "the other has the next as well", func() bool { return len(good.got()) == 2 })
	h.do(rollout.ActionPause)
	until(t, "and the one after that", func() bool { return len(good.got()) == 3 })
	stop() // which ends the request that hangs
	if n := len(stuck.got()); n != 1 {
		t.Errorf("%d requests to a receiver that hangs, which must have them in order", n)
	}
}

func TestWebhooks_BackOff(t *testing.T) {
	h := newHarness(t, sqlite(t))
	r := newReceiver(t, always(http.StatusFound)) // a redirect is not followed, and no success
	c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "x", URL: r.URL, Secret: secret}}})
	stop := h.start(c)
	h.known(1)
	h.create(hours())
	var waits []float64
	for attempt := 1; attempt <= 3; attempt++ {
		var row struct {
			Attempts int     `db:"attempts"`
			Wait     float64 `db:"wait"`
			Error    string  `db:"last_error"`
		}
		until(t, "it was refused", func() bool {
			err := h.db.Get(&row, `SELECT attempts, last_error, (julianday(next_at) - julianday('now')) * 86400 AS wait FROM automation_rollout_outbox`)
			return err == nil && row.Attempts == attempt && row.Error != "" && row.Wait < 15
		})
		if row.Error != "the receiver answered 302 Found" {
			t.Error(row.Error)
		}
		waits = append(waits, row.Wait)
		h.sql(`UPDATE automation_rollout_outbox SET next_at = created_at`)
	}
	stop()
	for i, most := range []float64{1, 2, 4} {
		if waits[i] > most+.1 || waits[i] < most/4 {
			t.Errorf("waits %v", waits)
		}
	}
	if n := len(r.got()); n < 3 || n > 4 {
		t.Errorf("%d requests, for 3 or 4 attempts", n)
	}
}

func TestWebhooks_TellOfFlagsChangedByHand(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		h.sql(`UPDATE feature_flags SET notice = 'before anybody listened'`)
		h.awaitLaterClock()
		r := newReceiver(t, always(http.StatusNoContent))
		o := rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "ops", URL: r.URL, Secret: secret}}}
		stop, also := h.start(h.newController(o)), h.start(h.newController(o)) // of two replicas one sends it
		h.known(1)
		h.sql(`UPDATE feature_flags SET enabled = false, enabled_user_ids = '["7"]', updated_by = 'dba' WHERE feature_name = 'automation'`)
		h.create(hours())
		h.do(rollout.ActionStart) // which changes the flag, and is told as an event of the rollout
		until(t, "all have been sent", func() bool {
			var unsent int
			if err := h.db.Get(&unsent, `SELECT count(*) FROM automation_rollout_outbox WHERE sent_at IS NULL`); err != nil {
				t.Fatal(err)
			}
			return unsent == 0 && len(r.got()) >= 3
		})
		stop()
		also()
		var changes []string
		for _, one := range r.got() {
			one.verify(t)
			if strings.Contains(string(one.body), `"type":"flag.changed"`) {
				var body struct{ Data json.RawMessage }
				if err := json.Unmarshal(one.body, &body); err != nil {
					t.Fatal(err)
				}
				changes = append(changes, string(body.Data))
			}
		}
		version := h.flag().Version - 1
		want := []string{fmt.Sprintf(`{"flag":"automation","version":%d,"action":"update","actor":"dba","before":{"enabled":true},"after":{"enabled":false},"users_changed":true}`, version)}
		if diff := cmp.Diff(want, changes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWebhooks_TellOfFeedbackWithoutItsText(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		store, bad := feedback.NewStore(h.db, sqldb.Options{}), 2
		say := func(key string, rating *int) {
			if _, err := store.Add(t.Context(), flag, "mallory", key, rating, "my key is sk-secret"); err != nil {
				t.Fatal(err)
			}
		}
		say("before anybody listened", nil)
		h.sql(`UPDATE automation_feedback SET created_at = '2020-01-01 00:00:00.000'`)
		r := newReceiver(t, always(http.StatusNoContent))
		o := rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "ops", URL: r.URL, Secret: secret}}}
		stop, also := h.start(h.newController(o)), h.start(h.newController(o)) // of two replicas one sends it
		h.known(1)
		say("one", &bad)
		say("two", nil)
		until(t, "both are sent and noted", func() bool {
			var sent int
			if err := h.db.Get(&sent, `SELECT count(*) FROM automation_rollout_outbox WHERE sent_at IS NOT NULL`); err != nil {
				t.Fatal(err)
			}
			return sent == 2
		})
		stop()
		also()
		var told []string
		for _, one := range r.got() {
			one.verify(t)
			var body struct {
				Type string
				Data json.RawMessage
			}
			if err := json.Unmarshal(one.body, &body); err != nil {
				t.Fatal(err)
			}
			told = append(told, body.Type+" "+string(body.Data))
			if s := string(one.body); strings.Contains(s, "mallory") || strings.Contains(s, "secret") {
				t.Errorf("it says who wrote, or what: %s", s)
			}
		}
		want := []string{`feedback.created {"id":2,"stage":"0 %","rating":2}`, `feedback.created {"id":3,"stage":"0 %","rating":null}`}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOutbox_TellsNothingOldAsNew(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		r := newReceiver(t, always(http.StatusNoContent))
		c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "ops", URL: r.URL, Secret: secret}}})
		// A receiver that was last known long ago, when the flag was changed.
		h.sql(`INSERT INTO automation_rollout_receivers (name, seen_at, registered_at) VALUES ('ops', '2020-01-01 00:00:00.000', '2020-01-01 00:00:00.000')`)
		h.sql(`UPDATE feature_flags SET notice = 'old'`)
		h.awaitLaterClock()
		// And messages that it did not accept in three days.
		for _, row := range []string{"1, 'four days ago', '2020-01-01 00:00:00.000'", "2, '{}', CURRENT_TIMESTAMP"} {
			h.sql(`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at) VALUES ('ops', 'automation', ` + row + `, '2020-01-01 00:00:00.000')`)
		}
		stop := h.start(c)
		until(t, "the recent message has been sent", func() bool { return len(r.got()) > 0 })
		stop()
		for _, one := range r.got() {
			if string(one.body) != "{}" {
				t.Errorf("sent %s", one.body)
			}
		}
	})
}

func TestOutbox_KeepsWhateverAFailureSays(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		text := strings.Repeat("ü", 249) + "é\x00\xff\xc3€"
		failing := http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New(text) })}
		c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, HTTPClient: &failing, Webhooks: []rollout.Webhook{{Name: "ops", URL: "http://127.0.0.1:1", Secret: secret}}})
		stop := h.start(c)
		h.known(1)
		h.create(hours())
		var got string
		until(t, "the failure is recorded", func() bool {
			return h.db.Get(&got, `SELECT last_error FROM automation_rollout_outbox`) == nil && got != ""
		})
		stop()
		if !utf8.ValidString(got) || len(got) > 500 || !strings.HasPrefix(got, "üüü") {
			t.Errorf("%q", got)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
