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

// verify checks a signature as the specification says. e2e/webhooks does it with the
// official libraries.
func (r request) verify(t *testing.T) {
	t.Helper()
	id, at := r.header.Get("webhook-id"), r.header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(id + "." + at + "." + string(r.body)))
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.header.Get("webhook-signature") != want {
		t.Errorf("the signature is %q, want %q", r.header.Get("webhook-signature"), want)
	}
	if seconds, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute || id == "" || strings.Contains(id, ".") {
		t.Errorf("id %q, timestamp %q, %v; want an id without dots and the present time", id, at, err)
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
		t.Errorf("type or timestamp of the message do not match its event: %s", r.body)
	}
	return body.Data
}

// receiver is an HTTP server that keeps the requests it receives.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	answer   func(n int) int // returns the status for the nth request, from 1 on
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

func (r *receiver) received() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func always(status int) func(int) int { return func(int) int { return status } }

// awaitReceivers waits until so many receivers are registered.
func (h *harness) awaitReceivers(want int) {
	h.t.Helper()
	until(h.t, "the receivers are registered", func() bool {
		var n int
		return h.db.Get(&n, `SELECT count(*) FROM automation_rollout_receivers`) == nil && n == want
	})
}

// awaitLaterClock waits until the database's clock is past the last change of a
// flag. SQLite's clock has milliseconds, and a receiver that registers in the
// millisecond of a change receives it.
func (h *harness) awaitLaterClock() {
	h.t.Helper()
	now := `now()`
	if h.isSQLite() {
		now = `strftime('%Y-%m-%d %H:%M:%f', 'now')`
	}
	until(h.t, "the database's clock is past the last change", func() bool {
		var n int
		return h.db.Get(&n, `SELECT count(*) FROM feature_flag_events WHERE changed_at >= `+now) == nil && n == 0
	})
}

func TestOutbox_LeavesOutExpiredReceivers(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.sql(`INSERT INTO automation_rollout_receivers (name, seen_at) VALUES ('expired', '2020-01-01 00:00:00.000'), ('current', '2100-01-01 00:00:00.000')`)
		h.create(hourlyPlan())
		var names []string
		if err := h.db.Select(&names, `SELECT receiver FROM automation_rollout_outbox`); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"current"}, names); diff != "" {
			t.Errorf("the receivers of messages (-want +got):\n%s", diff)
		}
	})
}

func TestWebhooks_AreSignedAndSentInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		r := newReceiver(t, func(n int) int {
			if n == 1 || n == 3 { // the request is retried
				return http.StatusServiceUnavailable
			}
			return http.StatusNoContent
		})
		hook := rollout.Webhook{Name: "ops", URL: r.URL + "/hook?token=hidden", Secret: secret}
		var out bytes.Buffer
		o := rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{hook}, Logger: slog.New(slog.NewTextHandler(&out, nil))}
		stop := h.start(h.newController(o))
		h.awaitReceivers(1)
		// The actions are by a store without webhooks, as in the operators' command.
		h.create(hourlyPlan())
		h.do(rollout.ActionStart)
		h.do(rollout.ActionPause)
		until(t, "all have been sent", func() bool {
			h.sql(`UPDATE automation_rollout_outbox SET next_at = created_at WHERE last_error <> ''`) // instead of waiting for a retry
			var unsent int
			if err := h.db.Get(&unsent, `SELECT count(*) FROM automation_rollout_outbox WHERE sent_at IS NULL`); err != nil {
				t.Fatal(err)
			}
			return unsent == 0
		})
		stop()
		var seqs []int64
		ids := map[string]bool{}
		for _, req := range r.received() {
			req.verify(t)
			seqs = append(seqs, req.event(t).Seq)
			ids[req.header.Get("webhook-id")] = true
		}
		if diff := cmp.Diff([]int64{1, 1, 2, 2, 3}, seqs); diff != "" {
			t.Errorf("the numbers of the events that were sent (-want +got):\n%s", diff)
		}
		if len(ids) != 3 {
			t.Errorf("three events have the webhook-ids %v, want three", ids)
		}
		if s := out.String(); strings.Contains(s, "hidden") || strings.Contains(s, secret) || !strings.Contains(s, "the receiver answered 503") {
			t.Errorf("the log has the URL or the secret, or does not have the status:\n%s", s)
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
	h.awaitReceivers(2)
	h.create(hourlyPlan())
	until(t, "both receivers have the first event", func() bool { return len(good.received()) == 1 && len(stuck.received()) == 1 })
	h.do(rollout.ActionStart)
	until(t, "the good receiver has the second event", func() bool { return len(good.received()) == 2 })
	h.do(rollout.ActionPause)
	until(t, "the good receiver has the third event", func() bool { return len(good.received()) == 3 })
	stop() // ends the request that hangs
	if n := len(stuck.received()); n != 1 {
		t.Errorf("%d requests to a receiver that does not answer, want one: the next event waits for the first", n)
	}
}

func TestWebhooks_BackOff(t *testing.T) {
	h := newHarness(t, sqlite(t))
	r := newReceiver(t, always(http.StatusFound)) // a redirect is not followed and counts as a failure
	c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "x", URL: r.URL, Secret: secret}}})
	stop := h.start(c)
	h.awaitReceivers(1)
	h.create(hourlyPlan())
	var waits []float64
	for attempt := 1; attempt <= 3; attempt++ {
		var row struct {
			Attempts int     `db:"attempts"`
			Wait     float64 `db:"wait"`
			Error    string  `db:"last_error"`
		}
		until(t, "the attempt has failed", func() bool {
			err := h.db.Get(&row, `SELECT attempts, last_error, (julianday(next_at) - julianday('now')) * 86400 AS wait FROM automation_rollout_outbox`)
			return err == nil && row.Attempts == attempt && row.Error != "" && row.Wait < 15
		})
		if row.Error != "the receiver answered 302 Found" {
			t.Errorf("the error is %q, want the status", row.Error)
		}
		waits = append(waits, row.Wait)
		h.sql(`UPDATE automation_rollout_outbox SET next_at = created_at`)
	}
	stop()
	for i, longest := range []float64{1, 2, 4} {
		if waits[i] > longest+.1 || waits[i] < longest/4 {
			t.Errorf("the waits are %v s, want about 1, 2 and 4", waits)
		}
	}
	if n := len(r.received()); n < 3 || n > 4 {
		t.Errorf("%d requests, want 3 or 4", n)
	}
}

func TestWebhooks_ReportFlagsChangedByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.sql(`UPDATE feature_flags SET notice = 'before any receiver'`)
		h.awaitLaterClock()
		r := newReceiver(t, always(http.StatusNoContent))
		o := rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "ops", URL: r.URL, Secret: secret}}}
		stop, stopOther := h.start(h.newController(o)), h.start(h.newController(o)) // only one of two replicas sends a message
		h.awaitReceivers(1)
		h.sql(`UPDATE feature_flags SET enabled = false, enabled_user_ids = '["7"]', updated_by = 'dba' WHERE feature_name = 'automation'`)
		h.create(hourlyPlan())
		h.do(rollout.ActionStart) // changes the flag, too, but is sent as an event of the rollout
		until(t, "all have been sent", func() bool {
			var unsent int
			if err := h.db.Get(&unsent, `SELECT count(*) FROM automation_rollout_outbox WHERE sent_at IS NULL`); err != nil {
				t.Fatal(err)
			}
			return unsent == 0 && len(r.received()) >= 3
		})
		stop()
		stopOther()
		var changes []string
		for _, req := range r.received() {
			req.verify(t)
			if strings.Contains(string(req.body), `"type":"flag.changed"`) {
				var body struct{ Data json.RawMessage }
				if err := json.Unmarshal(req.body, &body); err != nil {
					t.Fatal(err)
				}
				changes = append(changes, string(body.Data))
			}
		}
		version := h.flag().Version - 1
		want := []string{fmt.Sprintf(`{"flag":"automation","version":%d,"action":"update","actor":"dba","before":{"enabled":true},"after":{"enabled":false},"users_changed":true}`, version)}
		if diff := cmp.Diff(want, changes); diff != "" {
			t.Errorf("the messages about flags (-want +got):\n%s", diff)
		}
	})
}

func TestWebhooks_ReportFeedbackWithoutItsText(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		store, bad := feedback.NewStore(h.db, sqldb.Options{}), 2
		add := func(key string, rating *int) {
			if _, err := store.Add(t.Context(), flag, "mallory", key, rating, "my key is sk-secret"); err != nil {
				t.Fatal(err)
			}
		}
		add("before any receiver", nil)
		h.sql(`UPDATE automation_feedback SET created_at = '2020-01-01 00:00:00.000'`)
		r := newReceiver(t, always(http.StatusNoContent))
		o := rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "ops", URL: r.URL, Secret: secret}}}
		stop, stopOther := h.start(h.newController(o)), h.start(h.newController(o)) // only one of two replicas sends a message
		h.awaitReceivers(1)
		add("one", &bad)
		add("two", nil)
		until(t, "both messages are recorded as sent", func() bool {
			var sent int
			if err := h.db.Get(&sent, `SELECT count(*) FROM automation_rollout_outbox WHERE sent_at IS NOT NULL`); err != nil {
				t.Fatal(err)
			}
			return sent == 2
		})
		stop()
		stopOther()
		var messages []string
		for _, req := range r.received() {
			req.verify(t)
			var body struct {
				Type string
				Data json.RawMessage
			}
			if err := json.Unmarshal(req.body, &body); err != nil {
				t.Fatal(err)
			}
			messages = append(messages, body.Type+" "+string(body.Data))
			if s := string(req.body); strings.Contains(s, "mallory") || strings.Contains(s, "secret") {
				t.Errorf("a message has the user or the text: %s", s)
			}
		}
		want := []string{`feedback.created {"id":2,"stage":"0 %","rating":2}`, `feedback.created {"id":3,"stage":"0 %","rating":null}`}
		if diff := cmp.Diff(want, messages); diff != "" {
			t.Errorf("the messages about feedback (-want +got):\n%s", diff)
		}
	})
}

func TestOutbox_SendsNothingOld(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		r := newReceiver(t, always(http.StatusNoContent))
		c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "ops", URL: r.URL, Secret: secret}}})
		// The receiver's registration had expired when the flag was changed.
		h.sql(`INSERT INTO automation_rollout_receivers (name, seen_at, registered_at) VALUES ('ops', '2020-01-01 00:00:00.000', '2020-01-01 00:00:00.000')`)
		h.sql(`UPDATE feature_flags SET notice = 'old'`)
		h.awaitLaterClock()
		// One of its messages was not accepted within three days.
		for _, row := range []string{"1, 'four days ago', '2020-01-01 00:00:00.000'", "2, '{}', CURRENT_TIMESTAMP"} {
			h.sql(`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at) VALUES ('ops', 'automation', ` + row + `, '2020-01-01 00:00:00.000')`)
		}
		stop := h.start(c)
		until(t, "the recent message has been sent", func() bool { return len(r.received()) > 0 })
		stop()
		for _, req := range r.received() {
			if string(req.body) != "{}" {
				t.Errorf("an old message was sent: %s", req.body)
			}
		}
	})
}

func TestOutbox_StoresAnyErrorText(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		text := strings.Repeat("ü", 249) + "é\x00\xff\xc3€"
		failing := http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New(text) })}
		c := h.newController(rollout.Options{Interval: 5 * time.Millisecond, HTTPClient: &failing, Webhooks: []rollout.Webhook{{Name: "ops", URL: "http://127.0.0.1:1", Secret: secret}}})
		stop := h.start(c)
		h.awaitReceivers(1)
		h.create(hourlyPlan())
		var got string
		until(t, "the failure is recorded", func() bool {
			return h.db.Get(&got, `SELECT last_error FROM automation_rollout_outbox`) == nil && got != ""
		})
		stop()
		if !utf8.ValidString(got) || len(got) > 500 || !strings.HasPrefix(got, "üüü") {
			t.Errorf("the stored error is %q (%d bytes), want at most 500 bytes of UTF-8 from its beginning", got, len(got))
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
