package automation_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/adminapi"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/userapi"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// outcomeRecorder records the outcomes of requests to the APIs, and the levels of
// their log lines.
type outcomeRecorder struct {
	mu       sync.Mutex
	outcomes []outcome.Outcome
	levels   []slog.Level
}

func (recorder *outcomeRecorder) Enabled(context.Context, slog.Level) bool { return true }
func (recorder *outcomeRecorder) WithAttrs([]slog.Attr) slog.Handler       { return recorder }
func (recorder *outcomeRecorder) WithGroup(string) slog.Handler            { return recorder }

func (recorder *outcomeRecorder) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "request ended" {
		recorder.mu.Lock()
		defer recorder.mu.Unlock()
		recorder.levels = append(recorder.levels, r.Level)
	}
	return nil
}

func (recorder *outcomeRecorder) observe(o outcome.Outcome) {
	recorder.mu.Lock()
	defer recorder.mu.Unlock()
	recorder.outcomes = append(recorder.outcomes, o)
}

// options installs e as a module's observer and logger.
func (recorder *outcomeRecorder) options(o *automation.Options) {
	o.Observer.API, o.Logger = recorder.observe, slog.New(recorder)
}

// next waits for the next request to end and be logged. It returns the request's
// outcome and the level of its log line.
func (recorder *outcomeRecorder) next(h *harness) (o outcome.Outcome, level slog.Level) {
	h.t.Helper()
	h.until("the request has ended", func() bool {
		recorder.mu.Lock()
		defer recorder.mu.Unlock()
		if len(recorder.levels) == 0 {
			return false
		}
		o, level = recorder.outcomes[0], recorder.levels[0]
		recorder.outcomes, recorder.levels = recorder.outcomes[1:], recorder.levels[1:]
		return true
	})
	return o, level
}

// sendUntilDatabaseAnswers repeats a request that failed because an overloaded
// machine's database was too slow, unless the test wants a 503.
func (recorder *outcomeRecorder) sendUntilDatabaseAnswers(h *harness, want int, send func() (status int)) (status int) {
	h.t.Helper()
	h.until("the database answers in time", func() bool {
		status = send()
		if status != http.StatusServiceUnavailable || want == status {
			return true
		}
		if o, _ := recorder.next(h); o.Cause != outcome.Database {
			h.t.Errorf("a 503 has the cause %q, want %q", o.Cause, outcome.Database)
		}
		return false
	})
	return status
}

// check asserts that a request ended with one of the causes, that it is the given
// kind of evidence, and that its status and the level of its log line are those that
// package policy has for the cause.
func (recorder *outcomeRecorder) check(h *harness, what string, status int, evidence policy.Evidence, causes ...outcome.Cause) {
	h.t.Helper()
	o, level := recorder.next(h)
	if !slices.Contains(causes, o.Cause) || o.Status != status {
		h.t.Errorf("%s: the outcome has cause %q and status %d, want a cause of %q and status %d; error: %v", what, o.Cause, o.Status, causes, status, o.Err)
	}
	p := policy.Of(o.Cause)
	ok := status == p.Status
	switch o.Cause {
	case outcome.None:
		ok = status < http.StatusBadRequest
	case outcome.Client, outcome.Off: // these have many codes, whose 4xx statuses differ
		ok = status >= http.StatusBadRequest && status < http.StatusInternalServerError && status != http.StatusTooManyRequests
	}
	if !ok || level != p.Level {
		h.t.Errorf("%s: status %d, logged at %v; the policy of cause %q is %+v", what, status, level, o.Cause, p)
	}
	if got := policy.EvidenceOf(o); got != evidence {
		h.t.Errorf("%s: evidence %q, want %q", what, got, evidence)
	}
}

// unknownSessionID is a valid id that no session has.
var unknownSessionID = "0x" + strings.Repeat("ab", 32)

// notCounted is the evidence of a request that no rollout counts, for example because
// its user is on neither arm.
const notCounted policy.Evidence = ""

func TestAPI_RecordsTheCauseOfEachRequest(t *testing.T) {
	t.Parallel()
	var recorder outcomeRecorder
	h := newHarness(t, setup{flagSQL: `UPDATE feature_flags SET rollout_percentage = 0, enabled_user_ids = '["alice", "ro-alice", "bob", "away"]'`, options: recorder.options})
	const wrong = `{"colour":"red"}`
	for _, tt := range []struct {
		what, method, path, user, body string
		header                         []string
		status                         int
		evidence                       policy.Evidence
		cause                          outcome.Cause
	}{
		{"read", "GET", settingsPath, "alice", "", nil, 200, policy.EvidenceSuccess, outcome.None},
		{"written", "PUT", settingsPath, "alice", `{"is_enabled":true,"session_duration":3600}`, nil, 200, policy.EvidenceSuccess, outcome.None},
		{"not modified", "GET", settingsPath, "alice", "", []string{"If-None-Match", "*"}, 304, policy.EvidenceSuccess, outcome.None},
		{"status", "GET", statusPath, "carol", "", nil, 200, notCounted, outcome.None},
		{"no user", "GET", settingsPath, "", "", nil, 401, notCounted, outcome.Client},
		{"identification unavailable", "GET", settingsPath, "away", "", nil, 503, notCounted, outcome.Host},
		{"identification unavailable, status", "GET", statusPath, "away", "", nil, 503, notCounted, outcome.Host},
		{"not in the rollout", "GET", settingsPath, "carol", "", nil, 404, notCounted, outcome.Off},
		{"read only", "PUT", settingsPath, "ro-alice", `{}`, nil, 403, notCounted, outcome.Client},
		{"wrong field", "PATCH", settingsPath, "alice", wrong, nil, 400, policy.EvidenceNone, outcome.Client},
		{"wrong media type", "PATCH", settingsPath, "alice", wrong, []string{"Content-Type", "text/plain"}, 415, policy.EvidenceNone, outcome.Client},
		{"too large", "PATCH", settingsPath, "alice", `{"is_enabled":` + strings.Repeat(" ", 1<<20) + `true}`, nil, 413, policy.EvidenceNone, outcome.Client},
		{"changed meanwhile", "PATCH", settingsPath, "alice", `{"is_enabled":true}`, []string{"If-Match", `"900"`}, 412, policy.EvidenceNone, outcome.Client},
		{"no such session", "DELETE", sessionsPath + "/" + unknownSessionID, "alice", "", nil, 404, policy.EvidenceNone, outcome.Client},
		{"no valid session id", "DELETE", sessionsPath + "/nonsense", "alice", "", nil, 404, policy.EvidenceNone, outcome.Client},
		{"no such route", "GET", automation.BasePath + "/nothing", "alice", "", nil, 404, notCounted, outcome.Client},
		{"no such method", "PUT", statusPath, "alice", "", nil, 405, notCounted, outcome.Client},
	} {
		status := recorder.sendUntilDatabaseAnswers(h, tt.status, func() int { return h.do(tt.method, tt.path, tt.user, tt.body, tt.header...).status })
		if status != tt.status {
			t.Errorf("%s: status %d, want %d", tt.what, status, tt.status)
		}
		recorder.check(h, tt.what, status, tt.evidence, tt.cause)
	}
	t.Run("too many changes", func(t *testing.T) {
		const n = 100 // sent at once, because the limit recovers with time
		var all sync.WaitGroup
		for range n {
			all.Go(func() { h.do("PATCH", settingsPath, "bob", `{}`) })
		}
		all.Wait()
		limited := 0
		for range n {
			o, _ := recorder.next(h) // the level may be that of another request
			isLimited := o.Cause == outcome.Limit
			if isLimited != (o.Status == http.StatusTooManyRequests) {
				t.Errorf("status %d has the cause %q; want %q for a 429, and for nothing else", o.Status, o.Cause, outcome.Limit)
			}
			if isLimited {
				limited++
				if got := policy.EvidenceOf(o); got != notCounted {
					t.Errorf("a 429 is evidence %q, want none", got)
				}
			}
		}
		if limited == 0 {
			t.Errorf("%d changes at once were all accepted, want some refused with 429", n)
		}
	})
	// Every route without the database.
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, route := range userapi.Routes(automation.BasePath) {
		method, path, _ := strings.Cut(route, " ")
		body := map[string]string{"PUT": `{"is_enabled":true,"session_duration":3600}`, "PATCH": `{"is_enabled":true}`, "POST": `{"is_enabled":true,"session_duration":3600}`}[method]
		if strings.HasSuffix(path, "/feedback") {
			body = `{"message":"fine"}`
		}
		a := h.do(method, strings.ReplaceAll(path, "{id}", unknownSessionID), "alice", body)
		evidence := policy.EvidenceShared
		if strings.HasSuffix(path, "/status") || strings.HasSuffix(path, "/feedback") {
			evidence = notCounted // these routes also serve users without the feature
		}
		recorder.check(h, route+" without the database", a.status, evidence, outcome.Database)
	}
}

func TestAPI_RecordsTheDatabaseAsCauseWhileFlagsAreUnknown(t *testing.T) {
	t.Parallel()
	var recorder outcomeRecorder
	h := newHarness(t, setup{skipMigration: true, options: recorder.options})
	h.until("the flags cannot be read", func() bool { return h.Flags().Health().Err != nil })
	for _, path := range []string{settingsPath, sessionsPath, statusPath} {
		a := h.get(path, "alice")
		recorder.check(h, path, a.status, notCounted, outcome.Database)
	}
}

func TestAdmin_RecordsTheCauseOfEachRequest(t *testing.T) {
	var recorder outcomeRecorder
	o := newOperator(t, setup{options: recorder.options})
	for _, tt := range []struct {
		what, method, path, body string
		header                   []string
		status                   int
		cause                    outcome.Cause
	}{
		{"read", "GET", "/flags", "", nil, 200, outcome.None},
		{"changed", "PATCH", "/flags/automation", `{"notice":"x"}`, nil, 200, outcome.None},
		{"wrong field", "PATCH", "/flags/automation", `{"rollout_percentage":150}`, nil, 400, outcome.Client},
		{"changed meanwhile", "PATCH", "/flags/automation", `{"notice":"y"}`, []string{"If-Match", `"900"`}, 412, outcome.Client},
		{"no such flag", "GET", "/flags/absent", "", nil, 404, outcome.Client},
		{"no such rollout", "GET", "/rollouts/absent", "", nil, 404, outcome.Client},
		{"no rollout to pause", "POST", "/rollouts/automation/pause", "", nil, 404, outcome.Client},
		{"a bad plan", "POST", "/rollouts/automation", `{"plan":{"stages":[]}}`, nil, 400, outcome.Client},
		{"started", "POST", "/rollouts/automation", twoStagePlan, nil, 200, outcome.None},
		{"an illegal step", "POST", "/rollouts/automation/resume", "", nil, 409, outcome.Client},
		{"a bad page", "GET", "/flags/automation/events?limit=0", "", nil, 400, outcome.Client},
		{"no such session", "DELETE", "/sessions/" + unknownSessionID, "", nil, 404, outcome.Client},
		{"no such feedback", "POST", "/feedback/900/done", "{}", nil, 404, outcome.Client},
		{"no such model", "GET", "/models/resolve?name=nothing-like-it", "", nil, 404, outcome.Client},
		{"no such route", "GET", "/nothing", "", nil, 404, outcome.Client},
		{"no such method", "DELETE", "/flags/automation", "", nil, 405, outcome.Client},
	} {
		status := recorder.sendUntilDatabaseAnswers(o.harness, tt.status, func() int { return o.call(tt.method, tt.path, tt.body, tt.header...).Code })
		if status != tt.status {
			t.Errorf("%s: status %d, want %d", tt.what, status, tt.status)
		}
		recorder.check(o.harness, tt.what, status, notCounted, tt.cause)
	}
	if err := o.db.Close(); err != nil {
		t.Fatal(err)
	}
	path := strings.NewReplacer("/sessions/{id}", "/sessions/"+unknownSessionID, "{name}", "automation", "{id}", "1")
	for _, route := range adminapi.Routes("") {
		method, pattern, _ := strings.Cut(route, " ")
		w := o.call(method, path.Replace(pattern), map[string]string{"PATCH": `{"enabled":false}`}[method])
		cause := outcome.Database
		switch pattern {
		case "/models", "/models/resolve", "/flags/{name}/users/{id}": // served from memory
			cause = outcome.None
		}
		recorder.check(o.harness, route+" without the database", w.Code, notCounted, cause)
	}
	for range 20 { // until this client has sent too many wrong tokens
		w := o.call("GET", "/flags", "", "Authorization", "Bearer wrong")
		if w.Code == http.StatusTooManyRequests {
			recorder.check(o.harness, "too many wrong tokens", w.Code, notCounted, outcome.Limit)
			return
		}
		recorder.check(o.harness, "a wrong token", w.Code, notCounted, outcome.Client)
	}
	t.Error("20 wrong tokens were not limited")
}
