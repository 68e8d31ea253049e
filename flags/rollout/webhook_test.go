package rollout_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

const secret = "0123456789abcdef"

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
			if err := rollout.VerifyWebhook(secret, one.header, one.body, time.Now()); err != nil {
				t.Error(err)
			}
			var e rollout.Event
			if err := json.Unmarshal(one.body, &e); err != nil {
				t.Fatal(err)
			}
			seqs = append(seqs, e.Seq)
			ids[one.header.Get("Webhook-Id")] = true
		}
		if diff := cmp.Diff([]int64{1, 1, 2, 2, 3}, seqs); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]bool{flag + "-1": true, flag + "-2": true, flag + "-3": true}, ids); diff != "" {
			t.Error(diff)
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

func TestVerifyWebhook_RefusesForgedAndOldRequests(t *testing.T) {
	now := time.Unix(1_795_000_000, 0)
	// By openssl dgst -sha256 -hmac 0123456789abcdef of automation-1.1795000000.{}
	good := func() http.Header {
		return http.Header{"Webhook-Id": {"automation-1"}, "Webhook-Timestamp": {"1795000000"}, "Webhook-Signature": {"v1,Kt18aZkXAcDUeVi7zKVL0c6Gq4BLcdESs44xipqVuoM="}}
	}
	if err := rollout.VerifyWebhook(secret, good(), []byte("{}"), now); err != nil {
		t.Error(err)
	}
	two := good()
	two.Set("Webhook-Signature", "v1,b3RoZXI= "+two.Get("Webhook-Signature"))
	if err := rollout.VerifyWebhook(secret, two, []byte("{}"), now.Add(4*time.Minute)); err != nil {
		t.Errorf("of two signatures one fits: %v", err)
	}
	with := func(key, value string) http.Header {
		h := good()
		h.Set(key, value)
		return h
	}
	for _, c := range []struct {
		name   string
		secret string
		h      http.Header
		body   string
		now    time.Time
	}{
		{"another secret", "0123456789abcdeF", good(), "{}", now},
		{"another body", secret, good(), "{ }", now},
		{"another id", secret, with("Webhook-Id", "automation-2"), "{}", now},
		{"another time", secret, with("Webhook-Timestamp", "1795000001"), "{}", now},
		{"no time", secret, with("Webhook-Timestamp", ""), "{}", now},
		{"no signature", secret, with("Webhook-Signature", ""), "{}", now},
		{"an old one", secret, good(), "{}", now.Add(5*time.Minute + time.Second)},
		{"one of the future", secret, good(), "{}", now.Add(-5*time.Minute - time.Second)},
		{"nothing", secret, http.Header{}, "", now},
	} {
		if err := rollout.VerifyWebhook(c.secret, c.h, []byte(c.body), c.now); !errors.Is(err, rollout.ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
