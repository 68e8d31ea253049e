package console_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
)

// token is the operators' token of the fake module.
const token = "a-token-of-enough-length"

// fakeAdmin answers like a module's admin API, and records the calls that change
// something.
type fakeAdmin struct {
	answers map[string]string // bodies by path, for all methods
	calls   []call
	fail    map[string]int // statuses by method and path
}

type call struct{ Method, Path, Actor, Body, IfMatch string }

func newFakeAdmin() *fakeAdmin {
	hash := "0x" + strings.Repeat("ab", 32)
	return &fakeAdmin{fail: map[string]int{}, answers: map[string]string{
		"/flags": `{"flags":[]}`,
		"/flags/automation": `{"feature_name":"automation","enabled":true,"enabled_user_ids":["7","<b>x</b>"],"disabled_user_ids":[],
			"rollout_percentage":10,"notice":"Back at <i>ten</i>.","version":4,"updated_at":"2026-01-02T03:04:05Z","updated_by":"admin:ann","rollout_effect":"The rollout pauses."}`,
		"/flags/automation/events": `{"events":[{"id":9,"version":4,"action":"update","changed_at":"2026-01-02T03:04:05Z","changed_by":"sql:dba",
			"before":{"rollout_percentage":0},"after":{"rollout_percentage":10}}]}`,
		"/flags/automation/users/7": `{"feature_name":"automation","user_id":"7","on":true,"reason":"listed","bucket":1234,"version":4,
			"steps":[{"rule":"master switch","finding":"on","decides":false},{"rule":"enabled_user_ids","finding":"listed","decides":true}]}`,
		"/overview": `{"master_on":true,"flag":{"enabled":true,"enabled_users":2,"disabled_users":0,"rollout_percentage":10,"notice":"Back at <i>ten</i>.",
				"version":4,"updated_at":"2026-01-02T03:04:05Z","updated_by":"admin:ann"},"components":{"node":{"ok":false,"detail":"the node does not answer"},"database":{"ok":true}},
			"sessions":{"open":12345,"unknown":1},"opted_in":40,"opted_out":2,"users_last_week":4000,"counted_at":"2026-01-02T03:04:00Z",
			"chats":{"served":960,"failed":40,"causes":{"session":30,"client_left":10},"overhead_p95_ms":12.3},
			"opens":[{"purpose":"replacement","opened":7,"failed":2,"pending":1}],
			"alerts":[{"name":"AutomationErrorRateHigh","severity":"critical","summary":"30 of <b>1000</b> failed."}],
			"replicas":[{"id":"r1","host":"gw-well","version":"v0.1.0","started_at":"2026-01-02T00:00:00Z","seen_at":"2026-01-02T03:04:05Z","flags_at":"2026-01-02T03:04:02Z",
				"master_on":true,"node_ok":true,"outcomes":100,"failures":3},
				{"id":"r2","host":"gw-ill","version":"v0.1.0","started_at":"2026-01-02T00:00:00Z","seen_at":"2026-01-02T03:04:05Z","flags_at":"2026-01-02T03:04:02Z",
				"master_on":false,"problems":{"node":"it <i>refuses</i>"},"outcomes":0,"failures":0}]}`,
		"/rollouts/automation": `{"name":"automation","state":"running","reason":"","waiting":"time","detail":"it <b>waits</b>","stage":1,"stage_name":"ten","percentage":10,
			"watched_seconds":3600,"hold_seconds":86400,"began_at":"2026-01-01T00:00:00Z","entered_at":"2026-01-02T00:00:00Z","possible":["pause","abort","skip"],
			"evidence":{"exposed":{"outcomes":1000,"failures":31},"control":{"outcomes":9000,"failures":9}},
			"plan":{"limit":5,"min_users":5,"stages":[{"name":"internal","percentage":0,"hold":"24h","min_samples":10},{"name":"ten","percentage":10,"hold":"24h","min_samples":2000,"approval":true}]}}`,
		"/rollouts/automation/series": `{"points":[{"at":"2026-01-02T00:00:00Z","exposed":{"outcomes":100,"failures":3},"control":{"outcomes":100,"failures":0}},
			{"at":"2026-01-02T00:01:00Z","exposed":{"outcomes":0,"failures":0},"control":{"outcomes":100,"failures":1}},
			{"at":"2026-01-02T00:02:00Z","exposed":{"outcomes":100,"failures":12},"control":{"outcomes":100,"failures":1},"failing_users":11}]}`,
		"/rollouts/automation/events": `{"events":[{"seq":2,"action":"advance","from":"running","to":"running","actor":"rollout:automation","detail":"the stage passed","stage_name":"ten","at":"2026-01-02T00:00:00Z"}]}`,
		"/users/7": `{"settings":{"is_enabled":true,"session_duration":3600},"sessions":[{"id":"` + hash + `","model":"llama","state":"idle",
			"opened_at":"2026-01-02T03:00:00Z","ends_at":"2026-01-02T04:00:00Z"}],
			"failures":[{"at":"2026-01-02T03:00:00Z","cause":"open_failed","model":"llama","provider":"0xprovider","detail":"refused: <b>no</b> provider"}],"budget":{"sessions_held":1,"sessions_max":4,"opens_left_hour":9}}`,
		"/sessions":       `{"sessions":[{"id":"` + hash + `","user_id":"7","model":"llama","state":"open","provider":"0xprovider","last_error":"=1+1","opened_at":"2026-01-02T03:00:00Z","ends_at":"2026-01-02T04:00:00Z"}],"next":"c1"}`,
		"/models":         `{"models":[{"name":"llama","id":"` + hash + `","type":"LLM"}],"loaded_at":"2026-01-02T03:00:00Z"}`,
		"/models/resolve": `{"name":"llama","id":"` + hash + `","type":"LLM","match":"name"}`,
		"/feedback": `{"feedback":[{"id":3,"user_id":"7","rating":2,"message":"<script>alert(1)</script>","stage":"10 %","created_at":"2026-01-02T03:00:00Z"}],
			"stages":[{"stage":"10 %","count":1,"open":1,"rated":1,"rating":2}]}`,
		"/report": `{"state":"rolled_back","by_hand":true,"at":"2026-01-02T03:00:00Z","verdict":"open","criteria":[{"name":"error_rate","verdict":"met","wanted":"below 1 %","measured":"0.3 %"}],
			"steps":[{"at":"2026-01-01T03:00:00Z","by":"sql:owner","enabled":true,"percentage":12.5,"listed":3}],
			"taken_back":{"at":"2026-01-02T02:00:00Z","by":"bob","detail":"Back at six.","stage":"12.5 %","since":"2026-01-01T03:00:00Z","activity":[{"kind":"chat","cause":"opening","requests":31}]},
			"review":{"from":"2025-12-26T03:00:00Z","to":"2026-01-02T03:00:00Z","opens":[{"purpose":"renewal","opened":1200,"failed":7}],"activity":[{"kind":"api","cause":"client_left","requests":9}],
				"users":{"active":41,"opted_in":5,"opted_out":2},"unused":[{"what":"opened and never used","sessions":17}],"feedback":{"count":6,"open":4,"rated":2,"rating":3.5}}}`,
		"/cleanup": `{"removed":[{"kind":"deleted_settings","rows":1200},{"kind":"sessions","rows":0}]}`,
	}}
}

func (f *fakeAdmin) Admin(authorize automation.Authorize) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, automation.AdminPath)
		actor := "token"
		if authorize == nil {
			if r.Header.Get("Authorization") != "Bearer "+token {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		} else {
			var err error
			if actor, err = authorize(r); err != nil {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		if status := f.fail[r.Method+" "+path]; status != 0 {
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"detail":"The API said %d."}`, status)
			return
		}
		if r.Method != http.MethodGet {
			body, _ := io.ReadAll(r.Body)
			f.calls = append(f.calls, call{r.Method, path, actor, string(body), r.Header.Get("If-Match")})
		}
		if r.URL.Query().Get("format") == "csv" {
			_, _ = io.WriteString(w, "id,message\n3,x\n")
			return
		}
		answer, ok := f.answers[path]
		if !ok && r.Method == http.MethodGet {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, answer)
	})
}

// browser is a client that keeps cookies and follows redirects, at a console
// below a prefix that its server strips.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func newBrowser(t *testing.T, admin console.Admin, o console.Options) *browser {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/some/prefix/", http.StripPrefix("/some/prefix", console.New(admin, o)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, server.URL + "/some/prefix/", &http.Client{Jar: jar}}
}

// page is an answer to a browser.
type page struct {
	status int
	path   string // after redirects, relative to the console
	header http.Header
	html   string
}

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	html, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{resp.StatusCode, strings.TrimPrefix(resp.Request.URL.String(), b.base), resp.Header, string(html)}
}

func (b *browser) get(path string) page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+path, http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(r)
}

func (b *browser) post(path string, form url.Values, header ...string) page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return b.do(r)
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// submit sends a form of a page, with the page's CSRF token.
func (b *browser) submit(from, path string, fields ...string) page {
	b.t.Helper()
	m := csrfField.FindStringSubmatch(b.get(from).html)
	if m == nil {
		b.t.Fatalf("%s has no CSRF token", from)
	}
	form := url.Values{"csrf": {m[1]}}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.post(path, form)
}

// authorizeAs returns an Options.Authorize for one operator.
func authorizeAs(name string, readOnly bool) func(*http.Request) (console.Operator, error) {
	return func(*http.Request) (console.Operator, error) {
		return console.Operator{Name: name, ReadOnly: readOnly}, nil
	}
}

// paths are those of all pages, with and without parameters.
var paths = []string{"", "switch", "switch?percentage=50", "rollout", "user", "user?id=7", "sessions", "sessions?state=open&user=7", "models",
	"models?name=llama&type=LLM", "audit", "feedback", "feedback?open=true", "report", "report?open_bugs=0", "cleanup"}

func TestConsole_RendersEveryPage(t *testing.T) {
	b := newBrowser(t, newFakeAdmin(), console.Options{Authorize: authorizeAs("ann", false)})
	for _, path := range paths {
		p := b.get(path)
		if p.status != http.StatusOK || !strings.HasSuffix(strings.TrimSpace(p.html), "</html>") {
			t.Errorf("%q: status %d with %d bytes, want 200 and a whole page", path, p.status, len(p.html))
		}
		for _, forbidden := range []string{"<script>alert", "<b>", "<i>", "<no value>", "%!", `href="/`, `src="/`, `action="/`, "ZgotmplZ"} {
			if strings.Contains(p.html, forbidden) {
				t.Errorf("%q contains %q: unescaped text, an absolute link or a failed template", path, forbidden)
			}
		}
		if csp := p.header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%q: content security policy %q, want frame-ancestors and default-src 'none'", path, csp)
		}
	}
	for path, want := range map[string][]string{
		"": {"10 %", "12 345", "3.1 % of 1 000", "the node does not answer", "<svg", "rollout_percentage: 0 → 10", "gw-well", "AutomationErrorRateHigh",
			"client left", "12 ms", "Internal users: 2.", "replacement", "2, <span class=\"badge bad\">1 unhealthy", "Why: it &lt;b&gt;waits"},
		"switch?percentage=50":       {"about 2 000 of the 4 000 users"},
		"rollout":                    {"1 000 more requests", "an operator&#39;s approval", `aria-current="step"`, "1.9 points left", "<dd>11</dd>", "Why: it &lt;b&gt;waits", "No feedback yet", "All feedback in this stage"},
		"user?id=7":                  {"enabled_user_ids: listed", "1 of 4", "no limit", "open failed", "refused: &lt;b&gt;no"},
		"models?name=llama&type=LLM": {"found by"},
		"feedback":                   {"&lt;script&gt;alert(1)", "2.0 of 5"},
		"report": {"below 1 %", "rolled back, by hand", "By bob", "Back at six.", "opening", "12.5 %, 3 users listed", "renewal", "client left", "<td class=\"n\">41</td>",
			"sessions opened and never used", "feedback, 4 open, 3.5 of 5"},
		"sessions?state=open&user=7": {`before=c1`, `user=7`},
		"assets/console.css":         {"prefers-color-scheme"},
		"assets/console.js":          {"use strict"},
		"feedback.csv?stage=10+%25":  {"id,message"},
		"audit.csv":                  {"id,changed_at,changed_by,action,changes\n9,2026-01-02T03:04:05Z,sql:dba,update,rollout_percentage: 0 → 10\n"},
		"sessions.csv?state=open":    {"id,user_id,model,state,reason,last_error,provider,opened_at,ends_at\n", ",7,llama,open,,'=1+1,0xprovider,2026-01-02T03:00:00Z,"},
		"audit":                      {"audit.csv"},
	} {
		p := b.get(path)
		for _, text := range want {
			if !strings.Contains(p.html, text) {
				t.Errorf("%q does not show %q:\n%s", path, text, p.html)
			}
		}
	}
}

func TestConsole_OverviewShowsTheConsolesFlag(t *testing.T) {
	admin := newFakeAdmin()
	admin.answers["/flags/other"] = `{"feature_name":"other","enabled":true,"enabled_user_ids":["1","2","3"],"rollout_percentage":77,"version":9}`
	admin.answers["/flags/other/events"] = `{"events":[]}`
	if p := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false), Flag: "other"}).get(""); !strings.Contains(p.html, "for 77 %") || !strings.Contains(p.html, "Internal users: 3.") {
		t.Errorf("status %d; want the flag other, for 77 %% and 3 internal users:\n%s", p.status, p.html)
	}
	admin.answers["/overview"] = `{"master_on":true,"flag":null}`
	if p := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false)}).get(""); !strings.Contains(p.html, "this replica has not read the flag") {
		t.Errorf("status %d; want the page to say that the flag was never read:\n%s", p.status, p.html)
	}
}

func TestConsole_WithoutARolloutOffersToStartOne(t *testing.T) {
	admin := newFakeAdmin()
	delete(admin.answers, "/rollouts/automation")
	delete(admin.answers, "/report")
	b := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false)})
	for path, want := range map[string]string{"": "There is no rollout", "rollout": "Start the plan", "report": "no flag to report on"} {
		if p := b.get(path); p.status != http.StatusOK || !strings.Contains(p.html, want) {
			t.Errorf("%q: status %d, want 200 and %q", path, p.status, want)
		}
	}
}

func TestConsole_SendsActionsToTheAPIInTheOperatorsName(t *testing.T) {
	admin := newFakeAdmin()
	admin.answers["/rollouts/automation/pause"] = `{"from":"running","to":"paused","stage_name":"ten","detail":"by ann"}`
	b := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false)})
	for _, test := range []struct {
		from, path string
		fields     []string
		want       call
		shown      string
	}{
		{"switch", "switch", []string{"form", "off", "notice", "Back at ten.", "version", "4"},
			call{"PATCH", "/flags/automation", "console:ann", `{"enabled":false,"notice":"Back at ten."}`, `"4"`}, "The feature is off."},
		{"switch", "switch", []string{"form", "on", "version", "4"},
			call{"PATCH", "/flags/automation", "console:ann", `{"enabled":true,"notice":""}`, `"4"`}, "The feature is on."},
		{"switch", "switch", []string{"form", "percentage", "percentage", "12.5", "version", "4"},
			call{"PATCH", "/flags/automation", "console:ann", `{"rollout_percentage":12.5}`, `"4"`}, "12.5 % now. The rollout pauses."},
		{"switch", "switch", []string{"form", "add", "user", "8", "version", "4"},
			call{"PATCH", "/flags/automation", "console:ann", `{"enabled_user_ids":["7","\u003cb\u003ex\u003c/b\u003e","8"]}`, `"4"`}, "8 is an internal user now"},
		{"switch", "switch", []string{"form", "remove", "user", "7", "version", "4"},
			call{"PATCH", "/flags/automation", "console:ann", `{"enabled_user_ids":["\u003cb\u003ex\u003c/b\u003e"]}`, `"4"`}, "7 is not an internal user any more"},
		{"rollout", "rollout-action", []string{"action", "pause"},
			call{"POST", "/rollouts/automation/pause", "console:ann", `{"dry_run":false}`, ""}, "from running to paused"},
		{"rollout", "rollout-action", []string{"action", "pause", "dry_run", "true"},
			call{"POST", "/rollouts/automation/pause", "console:ann", `{"dry_run":true}`, ""}, "Dry run, nothing was changed"},
		{"rollout", "rollout-start", nil, call{"POST", "/rollouts/automation", "console:ann", `{}`, ""}, "The rollout has started"},
		{"feedback", "feedback-done", []string{"id", "3"}, call{"POST", "/feedback/3/done", "console:ann", `{}`, ""}, "Marked as done"},
		{"user?id=7", "user-session", []string{"id", "0xab", "user", "7"}, call{"DELETE", "/sessions/0xab", "console:ann", ``, ""}, "ends as soon as nobody uses it"},
		{"cleanup", "cleanup", []string{"dry_run", "true"}, call{"POST", "/cleanup", "console:ann", `{"dry_run":true}`, ""}, "would remove: 1 200 deleted settings."},
	} {
		admin.calls = nil
		p := b.submit(test.from, test.path, test.fields...)
		if p.status != http.StatusOK || !strings.Contains(p.html, test.shown) {
			t.Errorf("%s %v: status %d at %q, want 200 and %q", test.path, test.fields, p.status, p.path, test.shown)
		}
		if len(admin.calls) != 1 || admin.calls[0] != test.want {
			t.Errorf("%s %v: calls %+v, want %+v", test.path, test.fields, admin.calls, test.want)
		}
		if again := b.get(test.from); strings.Contains(again.html, test.shown) {
			t.Errorf("%s: the message is shown a second time", test.path)
		}
	}
}

func TestConsole_ShowsErrorsOfTheAPIAndOfForms(t *testing.T) {
	admin := newFakeAdmin()
	b := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false)})
	admin.fail["PATCH /flags/automation"] = http.StatusPreconditionFailed
	if p := b.submit("switch", "switch", "form", "off", "version", "3"); p.status != http.StatusOK || !strings.Contains(p.html, `role="alert">The API said 412.`) {
		t.Errorf("a change that the API refused: status %d, want 200 and the API's message:\n%s", p.status, p.html)
	}
	for _, fields := range [][]string{{"form", "percentage", "percentage", "101"}, {"form", "percentage", "percentage", "x"}, {"form", "add", "user", " "}, {"form", "nonsense"}} {
		if p := b.submit("switch", "switch", fields...); !strings.Contains(p.html, `role="alert"`) {
			t.Errorf("the form %v was accepted", fields)
		}
	}
	if p := b.submit("rollout", "rollout-action", "action", "explode"); !strings.Contains(p.html, "Unknown action") {
		t.Error("an unknown action was accepted")
	}
	if len(admin.calls) != 0 {
		t.Errorf("invalid forms reached the API: %+v", admin.calls)
	}
	admin.fail["GET /overview"] = http.StatusServiceUnavailable
	if p := b.get(""); p.status != http.StatusServiceUnavailable || !strings.Contains(p.html, "The API said 503.") {
		t.Errorf("while the API answers 503: status %d, want 503 and the API's message:\n%s", p.status, p.html)
	}
}

func TestConsole_ReadOnlyOperatorChangesNothing(t *testing.T) {
	admin := newFakeAdmin()
	b := newBrowser(t, admin, console.Options{Authorize: authorizeAs("bob", true)})
	button := regexp.MustCompile(`<button[^>]*>`)
	for _, path := range []string{"switch", "rollout", "user?id=7", "feedback", "cleanup"} {
		html := b.get(path).html
		for _, form := range regexp.MustCompile(`(?s)<form method="post".*?</form>`).FindAllString(html, -1) {
			for _, tag := range button.FindAllString(form, -1) {
				if !strings.Contains(tag, "disabled") {
					t.Errorf("%s: %s is enabled for a read-only operator", path, tag)
				}
			}
		}
	}
	for _, path := range []string{"switch", "rollout-start", "rollout-action", "user-session", "feedback-done", "cleanup"} {
		if p := b.submit("switch", path, "form", "off", "action", "abort", "id", "1"); p.status != http.StatusForbidden {
			t.Errorf("POST %s by a read-only operator: status %d, want 403", path, p.status)
		}
	}
	if len(admin.calls) != 0 {
		t.Errorf("a read-only operator's forms reached the API: %+v", admin.calls)
	}
}

func TestConsole_RefusesForgedForms(t *testing.T) {
	admin := newFakeAdmin()
	b := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false)})
	valid := csrfField.FindStringSubmatch(b.get("switch").html)[1]
	off := url.Values{"form": {"off"}, "csrf": {valid}}
	for name, p := range map[string]page{
		"no token":        b.post("switch", url.Values{"form": {"off"}}),
		"a wrong token":   b.post("switch", url.Values{"form": {"off"}, "csrf": {valid + "x"}}),
		"another site":    b.post("switch", off, "Sec-Fetch-Site", "cross-site"),
		"another origin":  b.post("switch", off, "Origin", "https://evil.example"),
		"an empty cookie": (&browser{t, b.base, &http.Client{}}).post("switch", url.Values{"form": {"off"}, "csrf": {""}}),
	} {
		if p.status != http.StatusForbidden {
			t.Errorf("%s: status %d, want 403", name, p.status)
		}
	}
	if len(admin.calls) != 0 {
		t.Errorf("forged forms reached the API: %+v", admin.calls)
	}
}

func TestConsole_SignsInWithTheToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := console.Options{Token: token, Now: func() time.Time { return now }}
	admin := newFakeAdmin()
	b := newBrowser(t, admin, o)
	if p := b.get("rollout"); !strings.HasPrefix(p.path, "login?to=rollout") {
		t.Fatalf("without a cookie: status %d at %q, want the sign-in page", p.status, p.path)
	}
	if p := b.submit("login", "login", "name", "ann", "token", "wrong"); p.status != http.StatusForbidden || !strings.Contains(p.html, "not the operators&#39; token") {
		t.Errorf("a wrong token: status %d, want 403 and a message", p.status)
	}
	if p := b.submit("login", "login", "name", " ", "token", token); p.status != http.StatusBadRequest {
		t.Errorf("no name: status %d, want 400", p.status)
	}
	if p := b.submit("login", "login", "name", "ann", "token", token, "to", "rollout"); p.path != "rollout" || p.status != http.StatusOK {
		t.Errorf("after signing in: status %d at %q, want 200 at the requested page", p.status, p.path)
	}
	for _, to := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "../../x", "javascript:alert(1)"} {
		if p := b.submit("login", "login", "name", "ann", "token", token, "to", to); p.path != "" || p.status != http.StatusOK {
			t.Errorf("signing in with the target %q: status %d at %q, want 200 at the overview", to, p.status, p.path)
		}
	}
	if p := b.submit("switch", "switch", "form", "on"); p.status != http.StatusOK || admin.calls[0].Actor != "console:ann" {
		t.Errorf("an action after signing in: status %d, calls %+v; want 200 and the actor console:ann", p.status, admin.calls)
	}

	t.Run("the cookie is valid on every replica, until it expires or the token changes", func(t *testing.T) {
		var cookie *http.Cookie
		u, _ := url.Parse(b.base)
		for _, c := range b.http.Jar.Cookies(u) {
			if c.Name == "automation_operator" {
				cookie = c
			}
		}
		status := func(o console.Options, value string) int {
			r := httptest.NewRequest(http.MethodGet, "/rollout", http.NoBody)
			r.AddCookie(&http.Cookie{Name: cookie.Name, Value: value})
			w := httptest.NewRecorder()
			console.New(admin, o).ServeHTTP(w, r)
			return w.Code
		}
		later := o
		later.Now = func() time.Time { return now.Add(13 * time.Hour) }
		other := o
		other.Token = "another-token-of-enough-length"
		for name, test := range map[string]struct {
			options console.Options
			value   string
			want    int
		}{
			"another replica": {o, cookie.Value, http.StatusOK},
			"too late":        {later, cookie.Value, http.StatusSeeOther},
			"another token":   {other, cookie.Value, http.StatusSeeOther},
			"tampered with":   {o, "9" + cookie.Value, http.StatusSeeOther},
			"no signature":    {o, strings.Split(cookie.Value, ".")[0], http.StatusSeeOther},
		} {
			if got := status(test.options, test.value); got != test.want {
				t.Errorf("%s: status %d, want %d", name, got, test.want)
			}
		}
	})

	b.submit("switch", "logout")
	if p := b.get("rollout"); !strings.HasPrefix(p.path, "login") {
		t.Errorf("after signing out the operator is at %q, want the sign-in page", p.path)
	}
}

func TestConsole_IsNotFoundWithoutASignIn(t *testing.T) {
	b := newBrowser(t, newFakeAdmin(), console.Options{})
	for _, path := range append([]string{"login", "assets/console.css"}, paths...) {
		if p := b.get(path); p.status != http.StatusNotFound {
			t.Errorf("%q with neither Authorize nor Token: status %d, want 404", path, p.status)
		}
	}
	b = newBrowser(t, newFakeAdmin(), console.Options{Authorize: func(*http.Request) (console.Operator, error) { return console.Operator{}, errors.New("nobody") }})
	if p := b.get("switch"); p.status != http.StatusForbidden || strings.Contains(p.html, "Percentage") {
		t.Errorf("a user who is no operator: status %d, want 403 and nothing of the page", p.status)
	}
}

// The size of a page does not grow with the numbers of replicas and users.
func TestConsole_PagesStaySmall(t *testing.T) {
	admin := newFakeAdmin()
	var overview map[string]any
	if err := json.Unmarshal([]byte(admin.answers["/overview"]), &overview); err != nil {
		t.Fatal(err)
	}
	one := overview["replicas"].([]any)[0].(map[string]any)
	var replicas []any
	for i := range 1000 {
		r := maps.Clone(one)
		r["id"] = fmt.Sprintf("gateway-%04d", i)
		replicas = append(replicas, r)
	}
	overview["replicas"], overview["sessions"] = replicas, map[string]int{"open": 1_000_000}
	text, err := json.Marshal(overview)
	if err != nil {
		t.Fatal(err)
	}
	admin.answers["/overview"] = string(text)
	var f map[string]any
	if err := json.Unmarshal([]byte(admin.answers["/flags/automation"]), &f); err != nil {
		t.Fatal(err)
	}
	ids := make([]string, 10_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("user-%06d", i)
	}
	f["enabled_user_ids"] = ids
	if text, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	admin.answers["/flags/automation"] = string(text)
	b := newBrowser(t, admin, console.Options{Authorize: authorizeAs("ann", false)})
	for _, path := range paths {
		p := b.get(path)
		t.Logf("%-30q %6d bytes", path, len(p.html))
		if len(p.html) > 300<<10 {
			t.Errorf("%q has %d bytes, over 300 KB", path, len(p.html))
		}
	}
}
