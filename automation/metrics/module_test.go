package metrics_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// The events of a whole module, and its state at a scrape.
func TestRecorder_CountsWhatAModuleDoes(t *testing.T) {
	r := metrics.New(metrics.Options{})
	g := automationtest.New(t, automationtest.Options{Observer: r.Observer(), Config: func(c *automation.Config) { c.AdminToken = automation.NewSecret("the-operators-token") }})
	r.Attach(g.Module)
	g.On("user-alice", "user-bob")
	g.Off("user-carol")
	mux := http.NewServeMux()
	mux.Handle(automation.BasePath+"/", g.API())
	mux.Handle(automation.AdminPath+"/", g.Admin(nil))
	mux.Handle("/host/", g.Sessions(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })))
	mux.Handle("/v1/", g.Forward())
	send := func(user, method, path, body string, header ...string) {
		t.Helper()
		q := httptest.NewRequest(method, path, strings.NewReader(body))
		q.Header.Set("Content-Type", "application/json")
		if user != "" {
			q.Header.Set("Authorization", "Bearer sk-"+user)
		}
		for i := 0; i < len(header); i += 2 {
			q.Header.Set(header[i], header[i+1])
		}
		mux.ServeHTTP(httptest.NewRecorder(), q)
	}
	const chat, host, settings = "/v1/chat/completions", "/host/v1/chat/completions", automation.BasePath + "/settings"
	const llama = `{"model":"llama","messages":[{"role":"user","content":"hi"}]}`

	send("user-alice", "POST", chat, llama)                                             // opens a session
	send("user-alice", "POST", chat, llama)                                             // reuses it
	send("user-alice", "POST", host, llama)                                             // reuses it
	send("user-alice", "GET", host, "")                                                 // no POST
	send("", "POST", host, llama)                                                       // no user
	send("user-carol", "POST", host, llama)                                             // without the feature
	send("user-alice", "POST", host, llama, "session_id", strings.Repeat("f0", 32))     // own session
	send("user-alice", "POST", chat, `{"model":"nothing-like-it"}`)                     // refused: no such model
	send("", "POST", chat, llama)                                                       // no key
	send("user-bob", "PUT", settings, `{"is_enabled":false,"session_duration":600}`)    // opts out
	send("user-bob", "POST", host, llama)                                               // opted out
	send("user-bob", "PATCH", settings, `{"is_enabled":true}`)                          // opts in
	send("user-bob", "PATCH", settings, `{"session_duration":700}`)                     // changes the duration
	send("", "GET", settings, "")                                                       // 401
	send("user-alice", "GET", automation.BasePath+"/nothing/user-alice", "")            // 404
	send("", "GET", automation.AdminPath+"/flags", "", "Authorization", "Bearer wrong") // 401
	g.Node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, Text: "no provider accepting session"})
	send("user-bob", "POST", chat, llama) // refused by the node
	g.Node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeNoEnd, Times: 1})
	func() {
		defer func() { _ = recover() }() // the module aborts the answer
		send("user-alice", "POST", chat, strings.Replace(llama, "{", `{"stream":true,`, 1))
	}()

	maintained := func() bool {
		f := gather(t, r)
		return value(t, f, "automation_session_maintenance_rounds_total", "work", "opens", "result", "ok") > 0 &&
			value(t, f, "automation_session_maintenance_rounds_total", "work", "closes", "result", "ok") > 0
	}
	tick, timeout := time.NewTicker(5*time.Millisecond), time.NewTimer(5*time.Minute) // the machine may be very busy
	defer tick.Stop()
	defer timeout.Stop()
	for !maintained() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatal("no round of maintenance was counted within five minutes")
		}
	}
	f := gather(t, r)
	const put, patch = "PUT " + settings, "PATCH " + settings
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"automation_chat_requests_total", []string{"outcome", "served"}, 3},
		{"automation_chat_overhead_seconds", []string{"outcome", "served"}, 3},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "method"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "nobody"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "not_in"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "own_session"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "opted_out"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "refused", "reason", "model_not_found"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "refused", "reason", "invalid_api_key"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "failed", "reason", "session_unavailable"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "failed", "reason", "stream_interrupted"}, 1},
		{"automation_auth_failures_total", []string{"path", "chat"}, 1},
		{"automation_auth_failures_total", []string{"path", "api"}, 2},
		{"automation_settings_changes_total", []string{"change", "opt_out"}, 1},
		{"automation_settings_changes_total", []string{"change", "opt_in"}, 1},
		{"automation_settings_changes_total", []string{"change", "other"}, 1},
		{"automation_api_requests_total", []string{"route", put, "code", "200"}, 1},
		{"automation_api_requests_total", []string{"route", patch, "code", "200"}, 2},
		{"automation_api_requests_total", []string{"route", "GET " + settings, "code", "401"}, 1},
		{"automation_api_requests_total", []string{"code", "404"}, 1},
		{"automation_session_opens_total", []string{"cause", "request", "result", "opened"}, 1},
		{"automation_session_opens_total", []string{"cause", "request", "result", "refused"}, 1},
		{"automation_session_lifetime_seconds", nil, 1},
		{"automation_session_acquire_duration_seconds", []string{"result", "waited"}, 1},
		{"automation_session_acquire_duration_seconds", []string{"result", "idle"}, 3},
		{"automation_session_acquire_duration_seconds", []string{"result", "refused"}, 1},
		{"automation_sessions", []string{"state", "open"}, 1},
		{"automation_users", []string{"automation", "on"}, 1},
		{"automation_scrape_ok", nil, 1},
		{"automation_flag_enabled", []string{"flag", "automation"}, 1},
		{"automation_part_ok", []string{"part", "node"}, 1},
	} {
		if got := value(t, f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	for name, family := range f {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				for _, personal := range []string{"user-", "sk-", "llama", "0x", "nothing"} {
					if strings.Contains(l.GetValue(), personal) {
						t.Errorf("%s has the label %s=%q, which names a user, key, model or session", name, l.GetName(), l.GetValue())
					}
				}
			}
		}
	}
}
