// Package webhooks verifies the rollouts' webhooks with the official libraries
// of Standard Webhooks.
package webhooks_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

const (
	secret      = "whsec_plJ3nmyCDGBKInavdOK15jsl9oTk3JxR7mZ0aWcVbYw="
	wrongSecret = "whsec_AAAAnmyCDGBKInavdOK15jsl9oTk3JxR7mZ0aWcVbYw="
)

type request struct {
	header http.Header
	body   []byte
}

// receive returns a webhook that a running controller sent.
func receive(t *testing.T) request {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := schema.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	got := make(chan request, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- request{r.Header, body}
	}))
	defer receiver.Close()
	c, err := rollout.New(db, rollout.Options{Interval: 10 * time.Millisecond, Webhooks: []rollout.Webhook{{Name: "e2e", URL: receiver.URL, Secret: secret}}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); c.Run(t.Context()) }()
	plan := rollout.DefaultPlan()
	plan.Stages[0].Name = "ünternal \U0001F600 </script>"
	for deadline := time.After(2 * time.Minute); ; {
		if _, err := c.Store().Create(t.Context(), "automation", plan, "e2e"); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-got:
			t.Cleanup(func() { <-done })
			return r
		case <-time.After(50 * time.Millisecond): // until the receiver is registered
		case <-deadline:
			t.Fatal("no webhook was received within two minutes")
		}
	}
}

func TestGoLibrary_AcceptsOnlyAuthenticWebhooks(t *testing.T) {
	r := receive(t)
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(r.body, r.header); err != nil {
		t.Errorf("the webhook was not accepted: %v\nheader %v\nbody %s", err, r.header, r.body)
	}
	if err := verifier.Verify(append([]byte(" "), r.body...), r.header); err == nil {
		t.Error("a webhook with a changed body was accepted")
	}
	if wrong, err := standardwebhooks.NewWebhook(wrongSecret); err != nil || wrong.Verify(r.body, r.header) == nil {
		t.Errorf("a webhook was accepted with a wrong secret, or the secret was invalid: %v", err)
	}
}

func TestJavaScriptLibrary_AcceptsOnlyAuthenticWebhooks(t *testing.T) {
	if _, err := os.Stat("js/node_modules"); err != nil {
		if os.Getenv("AUTOMATION_TEST_REQUIRE_NPM") != "" {
			t.Fatal(err)
		}
		t.Skip("run npm install --no-package-lock --ignore-scripts in e2e/webhooks/js for this test")
	}
	r := receive(t)
	verify := func(secret string, body []byte) (string, error) {
		headers := map[string]string{}
		for name := range r.header {
			headers[strings.ToLower(name)] = r.header.Get(name)
		}
		in, err := json.Marshal(map[string]any{"secret": secret, "headers": headers, "body": string(body)})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "node", "verify.mjs")
		cmd.Dir, cmd.Stdin = "js", bytes.NewReader(in)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := verify(secret, r.body); err != nil {
		t.Errorf("the webhook was not accepted: %v\n%s", err, out)
	}
	if out, err := verify(secret, append([]byte(" "), r.body...)); err == nil || !strings.Contains(out, "No matching signature") {
		t.Errorf("a webhook with a changed body: error %v, output %s; want No matching signature", err, out)
	}
	if out, err := verify(wrongSecret, r.body); err == nil || !strings.Contains(out, "No matching signature") {
		t.Errorf("a wrong secret: error %v, output %s; want No matching signature", err, out)
	}
}
