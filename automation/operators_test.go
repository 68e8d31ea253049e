package automation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

const feedbackPath = automation.BasePath + "/feedback"

func TestFeedback_IsAcceptedFromUsersWhoHaveOrHadTheFeature(t *testing.T) {
	o := newOperator(t, setup{})
	sent := o.do("POST", feedbackPath, "alice", `{"rating":2,"message":"=Sessions ended early."}`)
	if sent.status != http.StatusCreated || sent.json(t)["rating"] != 2.0 {
		t.Fatalf("alice's feedback: status %d, body %s; want 201", sent.status, sent.body)
	}
	if a := o.do("PUT", settingsPath, "bob", validSettings); a.status != http.StatusOK {
		t.Fatalf("bob's settings: status %d, body %s; want 200", a.status, a.body)
	}
	o.execAndRefresh(`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`)
	o.until("the feature is off", func() bool { return o.get(settingsPath, "alice").status == http.StatusNotFound })
	if a := o.do("POST", feedbackPath, "bob", `{"message":"I miss it."}`); a.status != http.StatusCreated || a.json(t)["rating"] != nil {
		t.Errorf("feedback of bob, who had the feature: status %d, body %s; want 201", a.status, a.body)
	}
	checkProblem(t, o.do("POST", feedbackPath, "carol", `{"message":"What is it?"}`), http.StatusNotFound)

	o.expect(o.call("GET", "/feedback", ""), http.StatusOK, `"user_id":"bob"`)
	o.expect(o.call("GET", "/feedback?stage=100+%25&open=true&user=alice&limit=5", ""), http.StatusOK, `"stage":"100 %"`)
	o.expect(o.call("GET", "/feedback?user=nobody", ""), http.StatusOK, `"feedback":[]`)
	csv := o.call("GET", "/feedback?format=csv", "").Body.String()
	if !strings.HasPrefix(csv, "id,created_at,user_id,stage,rating,message,done_at,done_by\n") || !strings.Contains(csv, ",'=Sessions ended early.,") {
		t.Errorf("want CSV with a header line, and with formulas quoted:\n%s", csv)
	}
	id := fmt.Sprint(sent.json(t)["id"])
	o.expect(o.call("POST", "/feedback/"+id+"/done", "", "X-Automation-Actor", "dave"), http.StatusOK, `"done_by":"admin:dave"`)
	o.expect(o.call("POST", "/feedback/999/done", ""), http.StatusNotFound, "no feedback")
	o.expect(o.call("POST", "/feedback/x/done", ""), http.StatusNotFound, "no feedback")
	for _, query := range []string{"open=maybe", "format=xml", "limit=0", "before=x"} {
		o.expect(o.call("GET", "/feedback?"+query, ""), http.StatusBadRequest, "errors")
	}

	if err := o.EraseUser(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if left := o.call("GET", "/feedback", "").Body.String(); strings.Contains(left, "alice") || !strings.Contains(left, "bob") {
		t.Errorf("after alice was erased the feedback is %s, want only bob's", left)
	}
	if o.log.has("Sessions ended early") || o.log.has("I miss it") {
		t.Error("the log has the message of a user's feedback")
	}
}

func TestFeedback_RefusesInvalidEntries(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	for body, field := range map[string]string{
		`{"message":" "}`:                                 "message",
		`{"rating":3}`:                                    "message",
		`{"rating":6,"message":"x"}`:                      "rating",
		`{"rating":"3","message":"x"}`:                    "rating",
		`{"message":"x","stage":"100 %"}`:                 "stage",
		`{"message":"x","message":"y"}`:                   "message",
		`{"message":"` + strings.Repeat("é", 2001) + `"}`: "message",
	} {
		if got := checkProblem(t, h.do("POST", feedbackPath, "alice", body), http.StatusBadRequest); !slices.Equal(got, []string{field}) {
			t.Errorf("%.60s: the error names the fields %v, want %s", body, got, field)
		}
	}
	checkProblem(t, h.do("POST", feedbackPath, "", `{"message":"x"}`), http.StatusUnauthorized)
	checkProblem(t, h.do("POST", feedbackPath, "ro-alice", `{"message":"x"}`), http.StatusForbidden)
	checkProblem(t, h.do("POST", feedbackPath, "alice", `{"message":"`+strings.Repeat("x", 40<<10)+`"}`), http.StatusRequestEntityTooLarge)
}

func TestFeedback_IsLimitedAndIdempotent(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	first := h.do("POST", feedbackPath, "alice", `{"message":"x"}`, "Idempotency-Key", "k1")
	again := h.do("POST", feedbackPath, "alice", `{"message":"x"}`, "Idempotency-Key", "k1")
	if first.status != http.StatusCreated || first.body != again.body {
		t.Errorf("one Idempotency-Key sent twice: status %d, bodies %s and %s; want 201 and equal bodies", first.status, first.body, again.body)
	}
	if other := h.do("POST", feedbackPath, "bob", `{"message":"x"}`, "Idempotency-Key", "k1"); other.body == first.body {
		t.Error("two users with the same Idempotency-Key got the same entry")
	}
	for range 3 {
		h.do("POST", feedbackPath, "alice", `{"message":"x"}`)
	}
	if a := h.do("POST", feedbackPath, "alice", `{"message":"x"}`); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "60" {
		t.Errorf("the sixth feedback in a minute: status %d, Retry-After %q; want 429 and 60", a.status, a.header.Get("Retry-After"))
	}
	if n := h.count(`SELECT count(*) FROM automation_feedback WHERE user_id = 'alice'`); n != 4 {
		t.Errorf("alice has %d entries, want 4", n)
	}
}

// The console renders what the real admin API answers.
func TestConsole_RendersTheAdminAPI(t *testing.T) {
	o := newOperator(t, setup{})
	o.chat("alice")
	if a := o.do("POST", feedbackPath, "alice", `{"rating":4,"message":"Good."}`); a.status != http.StatusCreated {
		t.Fatalf("status %d, body %s; want 201", a.status, a.body)
	}
	pages := console.New(o.Module, console.Options{Authorize: func(*http.Request) (console.Operator, error) { return console.Operator{Name: "ann"}, nil }})
	get := func(path string) string {
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, http.NoBody))
		if w.Code != http.StatusOK {
			t.Errorf("%s: status %d, want 200\n%s", path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	checkPages := func() {
		for path, want := range map[string]string{
			"/": "1 used a session", "/switch": "100 % now", "/rollout": "", "/user?id=alice": "Good.", "/models?name=LLAMA": "found by",
			"/models?name=nothing": "does not resolve", "/audit": "rollout_percentage", "/feedback": "4.0 of 5", "/feedback.csv": "Good.", "/cleanup": "Dry run",
			"/report": "", "/sessions": "0x", "/sessions?state=unknown": "None.",
		} {
			if html := get(path); !strings.Contains(html, want) {
				t.Errorf("%s does not show %q:\n%s", path, want, html)
			}
		}
	}
	checkPages()
	o.expect(o.call("POST", "/rollouts/automation", ""), http.StatusOK, "running")
	if html := get("/rollout"); !strings.Contains(html, `aria-current="step"`) || !strings.Contains(html, "Dry run") {
		t.Errorf("want the page of a running rollout to mark its stage and to offer a dry run:\n%s", html)
	}
}

func TestOverview_SumsUpAllReplicas(t *testing.T) {
	o := newOperator(t, setup{})
	o.chat("alice")
	o.node.Inject(proxyroutertest.Fault{Name: "open-refused"})
	if a := o.chat("bob"); a.status != http.StatusServiceUnavailable {
		t.Fatalf("a refused open: status %d, body %s; want 503", a.status, a.body)
	}
	own := o.ReplicaFigures()
	overhead := int64(0)
	for _, n := range own.Overhead {
		overhead += n
	}
	if own.Served != 1 || overhead != 1 || own.Failed["session"]+own.Failed["opening"]+own.Failed["provider"] != 1 {
		t.Errorf("this replica reports %+v, want one served chat with its overhead, and one failed", own)
	}

	o.exec(`INSERT INTO automation_replicas (id, host, version, started_at, seen_at, feature_enabled, flag_version, flag_age, problems, requests, failures, node_failures, figures)
		VALUES ('x', 'other', 'v1', '2026-01-01 00:00:00.000', '2100-01-01 00:00:00.000', true, 1, 90, '{"requests": "5 of 5 failed"}', 5, 5, 0,
			'{"served": 5, "failed": {"database": 45}, "overhead": [0, 0, 5]}')`)
	var got struct {
		Alerts []struct{ Name string }
		Opens  []struct {
			Purpose        string
			Opened, Failed int
		}
		Chats struct {
			Failed int
			Causes map[string]int
			P95    float64 `json:"overhead_p95_ms"`
		}
	}
	if err := json.Unmarshal(o.call("GET", "/overview", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AutomationRequestsFailing", "AutomationReplicaFailing", "AutomationFlagsStale"} {
		if !slices.ContainsFunc(got.Alerts, func(a struct{ Name string }) bool { return a.Name == name }) {
			t.Errorf("alerts %+v, want %s among them", got.Alerts, name)
		}
	}
	if got.Chats.Causes["database"] != 45 || got.Chats.Failed < 45 || got.Chats.P95 <= 2.5 {
		t.Errorf("chats %+v, want the other replica's 45 failures and its overhead included", got.Chats)
	}
	if len(got.Opens) != 1 || got.Opens[0].Purpose != "request" || got.Opens[0].Opened != 1 || got.Opens[0].Failed < 1 {
		t.Errorf("opens %+v, want one for a request and at least one failed", got.Opens)
	}
	o.expect(o.call("GET", "/users/bob", ""), http.StatusOK, `"cause":"open_failed","model":"llama"`)
	o.expect(o.call("GET", "/users/alice", ""), http.StatusOK, `"failures":[]`)
}

func TestAdmin_ListsAndEndsSessions(t *testing.T) {
	o := newOperator(t, setup{withFeed: true, config: func(c *automation.Config) { c.MaxOpensPerHour, c.MaxOpensPerDay = 10, 50 }})
	opened := o.chat("alice")
	id := opened.header.Get("X-Automation-Session")
	o.expect(o.call("GET", "/sessions?user=alice&state=open&limit=1", ""), http.StatusOK, `"id":"`+id+`"`)
	o.expect(o.call("GET", "/sessions?before=nonsense", ""), http.StatusOK, `"sessions":[]`)
	o.expect(o.call("GET", "/sessions?limit=0", ""), http.StatusBadRequest, "limit")
	o.expect(o.call("GET", "/users/alice", ""), http.StatusOK, `"sessions_held":1,"sessions_max":4,"opens_left_hour":9,"opens_left_day":49`)
	o.expect(o.call("DELETE", "/sessions/"+id, "", "X-Automation-Actor", "olga", "X-Automation-Comment", "broken%20answers"), http.StatusOK, `"state":"ending"`)
	o.expect(o.call("DELETE", "/sessions/0x12", ""), http.StatusNotFound, "no open session")
	o.expect(o.call("DELETE", "/sessions/nonsense", ""), http.StatusNotFound, "no open session")
	o.expect(o.call("GET", "/flags/automation/events?limit=1", ""), http.StatusOK, `"changed_by":"admin:olga (broken answers)","before":{},"after":{"session_id":"`+id+`"}}`)
	o.expect(o.call("GET", "/models/resolve?name=llama&type=EMBEDDING", ""), http.StatusNotFound, "does not resolve")
	budget, _ := o.get(statusPath, "alice").json(t)["budget"].(object)
	if budget["opens_left_hour"] != 9.0 || budget["next_free_at"] != nil {
		t.Errorf("alice's budget is %v, want 9 opens left and no next_free_at", budget)
	}
}

// The audit records who ran a clean-up. A dry run removes nothing and is not recorded.
func TestCleanup_IsRecordedInTheAudit(t *testing.T) {
	o := newOperator(t, setup{skipRun: true})
	o.expect(o.call("POST", "/cleanup", `{"dry_run":true}`, "X-Automation-Actor", "olga"), http.StatusOK, "")
	if events := o.call("GET", "/flags/automation/events", "").Body.String(); strings.Contains(events, "olga") {
		t.Errorf("the audit records a dry run: %s", events)
	}
	o.expect(o.call("POST", "/cleanup", "", "X-Automation-Actor", "olga"), http.StatusOK, "")
	o.expect(o.call("GET", "/flags/automation/events?limit=1", ""), http.StatusOK, `"action":"cleanup"`)
	o.expect(o.call("GET", "/flags/automation/events?limit=1", ""), http.StatusOK, `"changed_by":"admin:olga"`)
	o.execAndRefresh(`DROP TABLE feature_flag_events`)
	if w := o.call("DELETE", "/cleanup", ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("DELETE /cleanup: status %d, want 405", w.Code)
	}
	if w := o.call("POST", "/cleanup", ""); w.Code < 500 {
		t.Errorf("a clean-up without the audit's table: status %d, body %s; want a 5xx", w.Code, w.Body)
	}
}

// Operators can look up every error that a user got.
func TestAdmin_ListsEveryErrorThatAUserGot(t *testing.T) {
	o := newOperator(t, setup{config: func(c *automation.Config) { c.MaxOpensPerHour = 1 }})
	if a := o.chat("bob"); a.status != http.StatusOK {
		t.Fatalf("bob's first chat: status %d, body %s; want 200", a.status, a.body)
	}
	if a := o.do("POST", "/forward/v1/chat/completions", "bob", `{"model":"secret words","messages":[]}`); a.status != http.StatusBadRequest {
		t.Fatalf("an unknown model: status %d, body %s; want 400", a.status, a.body)
	}
	if a := o.do("POST", "/forward/v1/chat/completions", "bob", `{"model":"Qwen 3:web","messages":[]}`); a.status != http.StatusTooManyRequests {
		t.Fatalf("a second session: status %d, body %s; want 429", a.status, a.body)
	}
	o.node.Close()
	for range 3 {
		if a := o.chat("carol"); a.status != http.StatusServiceUnavailable {
			t.Fatalf("without the node: status %d, body %s; want 503", a.status, a.body)
		}
	}
	if err := o.stop(); err != nil { // writes the last report
		t.Fatal(err)
	}
	bob := o.call("GET", "/users/bob", "")
	o.expect(bob, http.StatusOK, `"cause":"client","model":"","provider":"","detail":"model_not_found","requests":1`)
	o.expect(bob, http.StatusOK, `"cause":"limit","model":"","provider":"","detail":"session_budget_exceeded","requests":1`)
	if strings.Contains(bob.Body.String(), "secret") || strings.Contains(bob.Body.String(), `"cause":"node"`) {
		t.Errorf("bob's errors are %s, want neither his text nor carol's error", bob.Body)
	}
	o.expect(o.call("GET", "/users/carol", ""), http.StatusOK, `"cause":"node","model":"","provider":"","detail":"session_unavailable","requests":3`)
}

func TestAudit_HasTheOperatorsComment(t *testing.T) {
	o := newOperator(t, setup{})
	o.expect(o.call("PATCH", "/flags/automation", `{"rollout_percentage":50}`, "X-Automation-Actor", "dave", "X-Automation-Comment", "errors+above%0A5+%25"), http.StatusOK, `"rollout_percentage":50`)
	o.expect(o.call("GET", "/flags/automation/events?limit=1", ""), http.StatusOK, `"changed_by":"admin:dave (errors above 5 %)"`)
}
