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

// ends keeps how requests to the APIs ended, and at what level that was logged.
type ends struct {
	mu       sync.Mutex
	outcomes []outcome.Outcome
	levels   []slog.Level
}

func (e *ends) Enabled(context.Context, slog.Level) bool { return true }
func (e *ends) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *ends) WithGroup(string) slog.Handler            { return e }

func (e *ends) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "request ended" {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.levels = append(e.levels, r.Level)
	}
	return nil
}

func (e *ends) observe(o outcome.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.outcomes = append(e.outcomes, o)
}

// options make a harness's module tell e.
func (e *ends) options(o *automation.Options) {
	o.Observer.API, o.Logger = e.observe, slog.New(e)
}

// next returns how the request ended that has just been answered, once its log
// line has been written as well.
func (e *ends) next(h *harness) (o outcome.Outcome, level slog.Level) {
	h.t.Helper()
	h.until("the request has ended", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.levels) == 0 {
			return false
		}
		o, level = e.outcomes[0], e.levels[0]
		e.outcomes, e.levels = e.outcomes[1:], e.levels[1:]
		return true
	})
	return o, level
}

// repeat sends a request again while it is refused for the database, which an
// overloaded machine's is now and then, unless that is what is wanted.
func (e *ends) repeat(h *harness, want int, send func() (status int)) (status int) {
	h.t.Helper()
	h.until("the database is there", func() bool {
		status = send()
		if status != http.StatusServiceUnavailable || want == status {
			return true
		}
		if o, _ := e.next(h); o.Cause != outcome.Database {
			h.t.Errorf("a 503 for %q", o.Cause)
		}
		return false
	})
	return status
}

// check asserts that a request ended for one of the causes, and that the answer,
// the evidence and the log line are those that the causes' table has for it.
func (e *ends) check(h *harness, what string, status int, evidence policy.Evidence, causes ...outcome.Cause) {
	h.t.Helper()
	o, level := e.next(h)
	if !slices.Contains(causes, o.Cause) || o.Status != status {
		h.t.Errorf("%s: ended for %q with %d, answered %d, want %q: %v", what, o.Cause, o.Status, status, causes, o.Err)
	}
	p := policy.Of(o.Cause)
	ok := status == p.Status
	switch o.Cause {
	case outcome.None:
		ok = status < http.StatusBadRequest
	case outcome.Client, outcome.Off: // which of the 4xx, the problem says
		ok = status >= http.StatusBadRequest && status < http.StatusInternalServerError && status != http.StatusTooManyRequests
	}
	if !ok || level != p.Level {
		h.t.Errorf("%s: answered %d and logged as %v for %q, whose policy is %+v", what, status, level, o.Cause, p)
	}
	if got := policy.EvidenceOf(o); got != evidence {
		h.t.Errorf("%s: evidence %q, want %q", what, got, evidence)
	}
}

// someSession is the id of no session.
var someSession = "0x" + strings.Repeat("ab", 32)

// Nothing but a user who has the feature makes evidence.
const nobodys policy.Evidence = ""

func TestAPI_EndsEachRequestForItsCause(t *testing.T) {
	t.Parallel()
	var e ends
	h := newHarness(t, setup{flag: `UPDATE feature_flags SET rollout_percentage = 0, enabled_user_ids = '["alice", "ro-alice", "bob", "away"]'`, options: e.options})
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
		{"status", "GET", statusPath, "carol", "", nil, 200, nobodys, outcome.None},
		{"not known", "GET", settingsPath, "", "", nil, 401, nobodys, outcome.Client},
		{"identity away", "GET", settingsPath, "away", "", nil, 503, nobodys, outcome.Host},
		{"identity away, status", "GET", statusPath, "away", "", nil, 503, nobodys, outcome.Host},
		{"not in", "GET", settingsPath, "carol", "", nil, 404, nobodys, outcome.Off},
		{"read only", "PUT", settingsPath, "ro-alice", `{}`, nil, 403, nobodys, outcome.Client},
		{"wrong field", "PATCH", settingsPath, "alice", wrong, nil, 400, policy.EvidenceNone, outcome.Client},
		{"wrong media type", "PATCH", settingsPath, "alice", wrong, []string{"Content-Type", "text/plain"}, 415, policy.EvidenceNone, outcome.Client},
		{"too large", "PATCH", settingsPath, "alice", `{"is_enabled":` + strings.Repeat(" ", 1<<20) + `true}`, nil, 413, policy.EvidenceNone, outcome.Client},
		{"changed meanwhile", "PATCH", settingsPath, "alice", `{"is_enabled":true}`, []string{"If-Match", `"900"`}, 412, policy.EvidenceNone, outcome.Client},
		{"no such session", "DELETE", sessionsPath + "/" + someSession, "alice", "", nil, 404, policy.EvidenceNone, outcome.Client},
		{"no session's id", "DELETE", sessionsPath + "/nonsense", "alice", "", nil, 404, policy.EvidenceNone, outcome.Client},
		{"no such route", "GET", automation.BasePath + "/nothing", "alice", "", nil, 404, nobodys, outcome.Client},
		{"no such method", "PUT", statusPath, "alice", "", nil, 405, nobodys, outcome.Client},
	} {
		status := e.repeat(h, tt.status, func() int { return h.do(tt.method, tt.path, tt.user, tt.body, tt.header...).status })
		if status != tt.status {
			t.Errorf("%s: %d, want %d", tt.what, status, tt.status)
		}
		e.check(h, tt.what, status, tt.evidence, tt.cause)
	}
	t.Run("too many changes", func(t *testing.T) {
		const n = 100 // at once, because places come back with time
		var all sync.WaitGroup
		for range n {
			all.Go(func() { h.do("PATCH", settingsPath, "bob", `{}`) })
		}
		all.Wait()
		limited := 0
		for range n {
			o, _ := e.next(h) // another's log line, perhaps
			if is := o.Cause == outcome.Limit; is != (o.Status == http.StatusTooManyRequests) || is && policy.EvidenceOf(o) != nobodys {
				t.Errorf("%d for %q, evidence %q", o.Status, o.Cause, policy.EvidenceOf(o))
			} else if is {
				limited++
			}
		}
		if limited == 0 {
			t.Errorf("%d changes at once, and no limit in sight", n)
		}
	})
	// Each route, without the database.
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, route := range userapi.Routes(automation.BasePath) {
		method, path, _ := strings.Cut(route, " ")
		body := map[string]string{"PUT": `{"is_enabled":true,"session_duration":3600}`, "PATCH": `{"is_enabled":true}`, "POST": `{"is_enabled":true,"session_duration":3600}`}[method]
		if strings.HasSuffix(path, "/feedback") {
			body = `{"message":"fine"}`
		}
		a := h.do(method, strings.ReplaceAll(path, "{id}", someSession), "alice", body)
		evidence := policy.EvidenceShared
		if strings.HasSuffix(path, "/status") || strings.HasSuffix(path, "/feedback") {
			evidence = nobodys // they serve users without the feature as well
		}
		e.check(h, route+" without the database", a.status, evidence, outcome.Database)
	}
}

func TestAPI_EndsRequestsOfUnknownFlagsForTheDatabase(t *testing.T) {
	t.Parallel()
	var e ends
	h := newHarness(t, setup{bare: true, options: e.options})
	h.until("the flags cannot be read", func() bool { return h.Flags().Health().Err != nil })
	for _, path := range []string{settingsPath, sessionsPath, statusPath} {
		a := h.get(path, "alice")
		e.check(h, path, a.status, nobodys, outcome.Database)
	}
}

func TestAdmin_EndsEachRequestForItsCause(t *testing.T) {
	var e ends
	o := newOperator(t, setup{options: e.options})
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
		{"started", "POST", "/rollouts/automation", twoStages, nil, 200, outcome.None},
		{"an illegal step", "POST", "/rollouts/automation/resume", "", nil, 409, outcome.Client},
		{"a bad page", "GET", "/flags/automation/events?limit=0", "", nil, 400, outcome.Client},
		{"no such session", "DELETE", "/sessions/" + someSession, "", nil, 404, outcome.Client},
		{"no such feedback", "POST", "/feedback/900/done", "{}", nil, 404, outcome.Client},
		{"no such model", "GET", "/models/resolve?name=nothing-like-it", "", nil, 404, outcome.Client},
		{"no such route", "GET", "/nothing", "", nil, 404, outcome.Client},
		{"no such method", "DELETE", "/flags/automation", "", nil, 405, outcome.Client},
	} {
		status := e.repeat(o.harness, tt.status, func() int { return o.call(tt.method, tt.path, tt.body, tt.header...).Code })
		if status != tt.status {
			t.Errorf("%s: %d, want %d", tt.what, status, tt.status)
		}
		e.check(o.harness, tt.what, status, nobodys, tt.cause)
	}
	if err := o.db.Close(); err != nil {
		t.Fatal(err)
	}
	path := strings.NewReplacer("/sessions/{id}", "/sessions/"+someSession, "{name}", "automation", "{id}", "1")
	for _, route := range adminapi.Routes("") {
		method, pattern, _ := strings.Cut(route, " ")
		w := o.call(method, path.Replace(pattern), map[string]string{"PATCH": `{"enabled":false}`}[method])
		cause := outcome.Database
		switch pattern {
		case "/models", "/models/resolve", "/flags/{name}/users/{id}": // are in memory
			cause = outcome.None
		}
		e.check(o.harness, route+" without the database", w.Code, nobodys, cause)
	}
	for range 20 { // until the source has guessed too often
		w := o.call("GET", "/flags", "", "Authorization", "Bearer wrong")
		if w.Code == http.StatusTooManyRequests {
			e.check(o.harness, "too many guesses", w.Code, nobodys, outcome.Limit)
			return
		}
		e.check(o.harness, "a guess", w.Code, nobodys, outcome.Client)
	}
	t.Error("guesses are not limited")
}
