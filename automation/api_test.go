package automation_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

const (
	settingsPath = automation.BasePath + "/settings"
	sessionsPath = automation.BasePath + "/sessions"
	statusPath   = automation.BasePath + "/status"

	validSettings = `{"is_enabled":true,"session_duration":1800}`
)

// checkProblem asserts that an answer is a complete problem+json error, and returns the
// fields that it names.
func checkProblem(t *testing.T, a answer, status int) []string {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, body %s; want %d", a.status, a.body, status)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q, want application/problem+json", got)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q, want no-store", got)
	}
	p := a.json(t)
	if p["status"] != float64(status) || p["title"] != http.StatusText(status) || p["detail"] == "" {
		t.Errorf("problem %v, want the status %d, its title and a detail", p, status)
	}
	var fields []string
	list, _ := p["errors"].([]any)
	for _, e := range list {
		fields = append(fields, e.(object)["field"].(string))
	}
	return fields
}

// settingsOf returns the settings of an answer and its ETag, without the times.
func settingsOf(t *testing.T, a answer) string {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("status %d, body %s; want 200", a.status, a.body)
	}
	v := a.json(t)
	return fmt.Sprintf("%v %v %v stored=%v %s", v["user_id"], v["is_enabled"], v["session_duration"], v["created_at"] != nil, a.header.Get("ETag"))
}

func TestSettings_AreReadAndWritten(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.DefaultOptIn = false }})
	for _, step := range []struct {
		name, method, body string
		header             []string
		want               string
	}{
		{"GET returns the defaults while nothing is stored", "GET", "", nil, `alice false 3600 stored=false "0"`},
		{"PUT stores both", "PUT", validSettings, nil, `alice true 1800 stored=true "1"`},
		{"GET returns what PUT stored", "GET", "", nil, `alice true 1800 stored=true "1"`},
		{"the same again changes nothing", "PUT", validSettings, nil, `alice true 1800 stored=true "1"`},
		{"POST stores both", "POST", `{"session_duration":300,"is_enabled":false}`, nil, `alice false 300 stored=true "2"`},
		{"PATCH of the duration keeps the switch", "PATCH", `{"session_duration":86400}`, nil, `alice false 86400 stored=true "3"`},
		{"PATCH of the switch keeps the duration", "PATCH", `{"is_enabled":true}`, nil, `alice true 86400 stored=true "4"`},
		{"an empty PATCH changes nothing", "PATCH", `{}`, nil, `alice true 86400 stored=true "4"`},
		{"If-Match with the current version", "PUT", validSettings, []string{"If-Match", `"4"`}, `alice true 1800 stored=true "5"`},
		{"If-Match with any version", "PATCH", `{"is_enabled":false}`, []string{"If-Match", "*"}, `alice false 1800 stored=true "6"`},
		{"a body without a media type is JSON", "PATCH", `{"is_enabled":true}`, []string{"Content-Type", ""}, `alice true 1800 stored=true "7"`},
		{"a media type with a charset is accepted", "PATCH", `{"is_enabled":false}`, []string{"Content-Type", "application/json; charset=UTF-8"}, `alice false 1800 stored=true "8"`},
		{"DELETE restores the defaults", "DELETE", "", []string{"If-Match", `"8"`}, `alice false 3600 stored=false "0"`},
		{"a second DELETE changes nothing", "DELETE", "", nil, `alice false 3600 stored=false "0"`},
		{"GET returns the defaults after DELETE", "GET", "", nil, `alice false 3600 stored=false "0"`},
		{"If-None-Match with any version while nothing is stored", "PUT", validSettings, []string{"If-None-Match", "*"}, `alice true 1800 stored=true "10"`},
		{"If-Match with a list that has the current version", "PATCH", `{"session_duration":600.0}`, []string{"If-Match", `"3", "10"`}, `alice true 600 stored=true "11"`},
		{"If-None-Match with other versions", "PATCH", `{"session_duration":6e2,"is_enabled":false}`, []string{"If-None-Match", `"10", W/"9"`}, `alice false 600 stored=true "12"`},
		{"PATCH accepts a merge patch", "PATCH", `{"is_enabled":true}`, []string{"Content-Type", "application/merge-patch+json"}, `alice true 600 stored=true "13"`},
		{"DELETE once more", "DELETE", "", nil, `alice false 3600 stored=false "0"`},
		{"If-Match with version 0 while nothing is stored", "PUT", validSettings, []string{"If-Match", `"0"`}, `alice true 1800 stored=true "15"`},
	} {
		t.Run(step.name, func(t *testing.T) {
			h.t = t
			if diff := cmp.Diff(step.want, settingsOf(t, h.do(step.method, settingsPath, "alice", step.body, step.header...))); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
	h.t = t
	if got := settingsOf(t, h.get(settingsPath, "bob")); got != `bob false 3600 stored=false "0"` {
		t.Errorf("bob's settings are %s, want the defaults", got)
	}
	if n := h.count(`SELECT count(*) FROM user_automation_settings WHERE user_id <> 'alice'`); n != 0 {
		t.Errorf("other users have %d stored rows, want none: they only read", n)
	}
}

func TestAPI_WritesNothingOnGET(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	for _, path := range []string{settingsPath, sessionsPath, statusPath} {
		if a := h.get(path, "alice"); a.status != http.StatusOK {
			t.Errorf("%s: status %d, want 200", path, a.status)
		}
	}
	if n := h.count(`SELECT (SELECT count(*) FROM user_automation_settings) + (SELECT count(*) FROM automation_sessions)`); n != 0 {
		t.Errorf("GET requests wrote %d rows", n)
	}
}

func TestSettings_AnswerNotModified(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	h.do("PUT", settingsPath, "alice", validSettings)
	for tag, want := range map[string]int{
		`"1"`: 304, `W/"1"`: 304, `"7", "1"`: 304, `*`: 304,
		`"0"`: 200, `1`: 200, `"1`: 200, "": 200,
	} {
		a := h.get(settingsPath, "alice", "If-None-Match", tag)
		if a.status != want || a.header.Get("ETag") != `"1"` || want == 304 && a.body != "" {
			t.Errorf("If-None-Match %s: status %d, ETag %s, body %q; want %d, ETag \"1\", and no body with a 304", tag, a.status, a.header.Get("ETag"), a.body, want)
		}
	}
}

func TestSettings_StayUnchangedWhenAPreconditionFails(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	for i, tag := range []string{`"0"`, `"2"`, `W/"1"`, `1`, `"01"`, `"+1"`, `"-1"`, `"3", "2"`, `"99999999999999999999"`, `"x"`, ``, `,`} {
		user := fmt.Sprint("user-", i)
		h.do("PUT", settingsPath, user, validSettings)
		for method, body := range map[string]string{"PUT": `{"is_enabled":false,"session_duration":300}`,
			"POST": `{"is_enabled":false,"session_duration":300}`, "PATCH": `{"is_enabled":false}`, "DELETE": ""} {
			checkProblem(t, h.do(method, settingsPath, user, body, "If-Match", tag), http.StatusPreconditionFailed)
		}
		if got := settingsOf(t, h.get(settingsPath, user)); got != user+` true 1800 stored=true "1"` {
			t.Errorf("after If-Match %s the settings are %s, want them unchanged", tag, got)
		}
	}
}

func TestSettings_NameEachInvalidField(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	both := []string{"PUT", "POST"}
	all := []string{"PUT", "POST", "PATCH"}
	for i, tt := range []struct {
		name    string
		methods []string
		body    string
		want    []string
	}{
		{"an empty body", all, ` `, nil},
		{"broken JSON", all, `{"is_enabled":true,`, nil},
		{"no object", all, `[]`, nil},
		{"null", all, `null`, nil},
		{"trailing data", all, validSettings + `{}`, nil},
		{"a comment", all, validSettings + `//`, nil},
		{"not UTF-8", all, "{\"is_enabled\":\"\xff\"}", nil},
		{"both missing", both, `{}`, []string{"is_enabled", "session_duration"}},
		{"one missing", both, `{"is_enabled":true}`, []string{"session_duration"}},
		{"the other missing", both, `{"session_duration":300}`, []string{"is_enabled"}},
		{"a null", all, `{"is_enabled":null,"session_duration":null}`, []string{"is_enabled", "session_duration"}},
		{"an unknown field", all, `{"is_enabled":true,"session_duration":300,"user_id":"bob"}`, []string{"user_id"}},
		{"another letter case", []string{"PATCH"}, `{"Is_Enabled":true}`, []string{"Is_Enabled"}},
		{"a field twice", all, `{"is_enabled":true,"is_enabled":false,"session_duration":300}`, []string{"is_enabled"}},
		{"text for the switch", all, `{"is_enabled":"true","session_duration":300}`, []string{"is_enabled"}},
		{"a number for the switch", all, `{"is_enabled":1,"session_duration":300}`, []string{"is_enabled"}},
		{"text for the duration", all, `{"is_enabled":true,"session_duration":"300"}`, []string{"session_duration"}},
		{"a fraction", all, `{"is_enabled":true,"session_duration":300.5}`, []string{"session_duration"}},
		{"a negative exponent", all, `{"is_enabled":true,"session_duration":3e-2}`, []string{"session_duration"}},
		{"below the bounds", all, `{"is_enabled":true,"session_duration":299}`, []string{"session_duration"}},
		{"above the bounds", all, `{"is_enabled":true,"session_duration":86401}`, []string{"session_duration"}},
		{"zero", all, `{"is_enabled":true,"session_duration":0}`, []string{"session_duration"}},
		{"negative", all, `{"is_enabled":true,"session_duration":-300}`, []string{"session_duration"}},
		{"a number that overflows a duration", all, `{"is_enabled":true,"session_duration":9223372036854775807}`, []string{"session_duration"}},
		{"a number that would wrap into the bounds", all, `{"is_enabled":true,"session_duration":18446744073709553416}`, []string{"session_duration"}},
		{"several errors at once", both, `{"is_enabled":"x","session_duration":"y","z":1}`, []string{"is_enabled", "session_duration", "z"}},
	} {
		for _, method := range tt.methods {
			t.Run(method+" "+tt.name, func(t *testing.T) {
				h.t = t
				user := fmt.Sprint("user-", i)
				fields := checkProblem(t, h.do(method, settingsPath, user, tt.body), http.StatusBadRequest)
				if diff := cmp.Diff(tt.want, fields); diff != "" {
					t.Errorf("fields that the error names (-want +got):\n%s", diff)
				}
			})
		}
	}
	h.t = t
	if n := h.count(`SELECT count(*) FROM user_automation_settings`); n != 0 {
		t.Errorf("invalid requests wrote %d rows", n)
	}
}

func TestSettings_AcceptOnlySmallJSON(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	large := strings.Repeat(" ", 4<<10) + validSettings
	for _, tt := range []struct {
		name   string
		body   string
		header []string
		want   int
	}{
		{"too large", large, nil, http.StatusRequestEntityTooLarge},
		{"a form", validSettings, []string{"Content-Type", "application/x-www-form-urlencoded"}, http.StatusUnsupportedMediaType},
		{"text", validSettings, []string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType},
		{"a JSON patch", validSettings, []string{"Content-Type", "application/json-patch+json"}, http.StatusUnsupportedMediaType},
		{"an invalid type", validSettings, []string{"Content-Type", "x;y;"}, http.StatusUnsupportedMediaType},
		{"another charset", validSettings, []string{"Content-Type", "application/json; charset=latin1"}, http.StatusUnsupportedMediaType},
		{"compressed", validSettings, []string{"Content-Encoding", "gzip"}, http.StatusUnsupportedMediaType},
	} {
		for _, method := range []string{"PUT", "POST", "PATCH"} {
			t.Run(method+" "+tt.name, func(t *testing.T) {
				h.t = t
				checkProblem(t, h.do(method, settingsPath, "alice", tt.body, tt.header...), tt.want)
			})
		}
	}
	t.Run("only PATCH accepts a merge patch", func(t *testing.T) {
		h.t = t
		for _, method := range []string{"PUT", "POST"} {
			checkProblem(t, h.do(method, settingsPath, "alice", validSettings, "Content-Type", "application/merge-patch+json"), http.StatusUnsupportedMediaType)
		}
	})
	t.Run("too large in chunks", func(t *testing.T) {
		h.t = t
		r := h.request("PUT", settingsPath, "alice", "x")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(large)), -1
		checkProblem(t, h.send(r), http.StatusRequestEntityTooLarge)
	})
}

// callEachRoute calls each route of settings and sessions with a valid request.
func callEachRoute(do func(method, path, body string)) {
	do("GET", settingsPath, "")
	do("PUT", settingsPath, validSettings)
	do("POST", settingsPath, validSettings)
	do("PATCH", settingsPath, `{"is_enabled":true}`)
	do("DELETE", settingsPath, "")
	do("GET", sessionsPath, "")
	do("DELETE", sessionsPath+"/"+strings.Repeat("ab", 32), "")
}

func TestAPI_ServesOnlyTheStatusWithoutTheFlag(t *testing.T) {
	t.Parallel()
	const off = `UPDATE feature_flags SET enabled = false, rollout_percentage = 100, notice = 'back at noon' WHERE feature_name = 'automation'`
	for name, tt := range map[string]struct {
		setup  setup
		key    string
		reason string
		notice string
	}{
		"the flag is disabled":           {setup{flagSQL: off}, "alice", "off", "back at noon"},
		"the flag is missing":            {setup{flagSQL: `DELETE FROM feature_flags`}, "alice", "off", ""},
		"the master switch is off":       {setup{config: func(c *automation.Config) { c.FeatureEnabled = false }}, "alice", "off", ""},
		"the user is not in the rollout": {setup{flagSQL: `UPDATE feature_flags SET enabled_user_ids = '["bob"]', notice = 'soon'`}, "alice", "not_in_rollout", "soon"},
		"the user is excluded":           {setup{flagSQL: `UPDATE feature_flags SET rollout_percentage = 100, disabled_user_ids = '["alice"]'`}, "alice", "not_in_rollout", ""},
		"the key is read-only":           {setup{flagSQL: off}, "ro-alice", "off", "back at noon"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, tt.setup)
			callEachRoute(func(method, path, body string) {
				checkProblem(t, h.do(method, path, tt.key, body), http.StatusNotFound)
			})
			want := object{"enabled": false, "reason": tt.reason, "notice": tt.notice, "budget": nil}
			if diff := cmp.Diff(want, h.get(statusPath, tt.key).json(t)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatus_HasTheBudget(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.MaxOpensPerHour = 1 }})
	budget := func() object { return h.get(statusPath, "alice").json(t)["budget"].(object) }
	if diff := cmp.Diff(object{"sessions_held": 0.0, "sessions_max": 4.0, "opens_left_hour": 1.0, "opens_left_day": nil, "next_free_at": nil}, budget()); diff != "" {
		t.Errorf("budget before the first session (-want +got):\n%s", diff)
	}
	h.chat("alice")
	b := budget()
	at, err := time.Parse(time.RFC3339, fmt.Sprint(b["next_free_at"]))
	if b["sessions_held"] != 1.0 || b["opens_left_hour"] != 0.0 || err != nil {
		t.Errorf("budget after the only open of the hour: %v, parse error of next_free_at: %v; want one session held and no opens left", b, err)
	}
	// It agrees with the Retry-After of the next open.
	refused := h.do("POST", chatPath, "alice", chatBody("Qwen 3:web"))
	wait, err := time.ParseDuration(refused.header.Get("Retry-After") + "s")
	if d := time.Until(at) - wait; refused.status != http.StatusTooManyRequests || err != nil || d < -2*time.Minute || d > 2*time.Minute {
		t.Errorf("next_free_at is %v, and an open got status %d with Retry-After %v; want 429 and the same time", at, refused.status, wait)
	}
	// Without the sessions' table the rest of the status is still served.
	h.exec(`ALTER TABLE automation_sessions RENAME TO automation_sessions_away`)
	if a := h.get(statusPath, "alice"); a.status != http.StatusOK || a.json(t)["reason"] != "on" || a.json(t)["budget"] != nil {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
}

func TestStatus_FollowsTheFlagAndTheUser(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.DefaultOptIn = false }})
	status := func() string {
		a := h.get(statusPath, "alice")
		return fmt.Sprint(a.status, " ", a.json(t)["enabled"], " ", a.json(t)["reason"])
	}
	check := func(want string) {
		t.Helper()
		if got := status(); got != want {
			t.Errorf("status %s, want %s", got, want)
		}
	}
	check("200 false opted_out")
	h.do("PUT", settingsPath, "alice", validSettings)
	check("200 true on")
	h.execAndRefresh(`UPDATE feature_flags SET enabled = false`)
	check("200 false off")
	h.execAndRefresh(`UPDATE feature_flags SET enabled = true, rollout_percentage = 0`)
	check("200 false not_in_rollout")
	h.execAndRefresh(`UPDATE feature_flags SET enabled_user_ids = '["alice"]'`)
	check("200 true on")
}

// If only one of two replicas has the feature on, the status of each describes its
// own chats.
func TestStatus_DescribesTheReplicaThatAnswers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shared.db")
	db := func(t testing.TB) *sqlx.DB { return openSQLite(t, path) }
	on := newHarness(t, setup{db: db})
	off := newHarness(t, setup{db: db, config: func(c *automation.Config) { c.FeatureEnabled, c.ProxyRouterURL = false, on.node.URL }})
	for _, c := range []struct {
		replica *harness
		enabled bool
		reason  string
	}{{on, true, "on"}, {off, false, "off"}} {
		status := c.replica.get(statusPath, "alice").json(t)
		if status["enabled"] != c.enabled || status["reason"] != c.reason {
			t.Errorf("status %v, want enabled %v and reason %s", status, c.enabled, c.reason)
		}
		got := c.replica.do("POST", hostPath, "alice", chatBody("llama"))
		if hasSession := got.header.Get("X-Automation-Session") != ""; got.status != http.StatusOK || hasSession != c.enabled {
			t.Errorf("enabled %v: a chat has status %d and a session: %v; want 200, and a session if enabled", c.enabled, got.status, hasSession)
		}
	}
}

func TestAPI_RefusesUnidentifiedUsers(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{identify: func(r *http.Request) (automation.Identity, error) {
		id, err := identifyByKey(r)
		if err == nil && strings.HasPrefix(id.UserID, "bad") { // an id that a host returns by mistake
			id.UserID = map[string]string{"bad-empty": "", "bad-control": "a\x00b", "bad-long": strings.Repeat("a", 257), "bad-utf8": "a\xff"}[id.UserID]
		}
		return id, err
	}})
	call := func(key string, status int, header string) {
		t.Helper()
		do := func(method, path, body string) {
			a := h.do(method, path, key, body)
			checkProblem(t, a, status)
			if a.header.Get(header) == "" {
				t.Errorf("%s %s: a %d has no %s", method, path, status, header)
			}
		}
		callEachRoute(do)
		do("GET", statusPath, "")
	}
	call("", http.StatusUnauthorized, "WWW-Authenticate")
	for _, key := range []string{"bad-empty", "bad-control", "bad-long", "bad-utf8"} {
		call(key, http.StatusUnauthorized, "WWW-Authenticate")
	}
	call("away", http.StatusServiceUnavailable, "Retry-After")
	if !h.log.has("canary-identity") {
		t.Errorf("the log does not have the error of Identify; the log:\n%s", h.log)
	}
}

func TestAPI_AllowsReadOnlyKeysOnlyToRead(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	callEachRoute(func(method, path, body string) {
		a := h.do(method, path, "ro-alice", body)
		if method == "GET" {
			if a.status != http.StatusOK {
				t.Errorf("%s %s: status %d, want 200", method, path, a.status)
			}
			return
		}
		checkProblem(t, a, http.StatusForbidden)
	})
	if n := h.count(`SELECT count(*) FROM user_automation_settings`); n != 0 {
		t.Errorf("requests with a read-only key stored %d rows", n)
	}
}

func TestAPI_LimitsWrites(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	for i := range 100 {
		a := h.do("PATCH", settingsPath, "alice", `{}`)
		if a.status != http.StatusTooManyRequests {
			if i > 60 {
				t.Fatal("more than 60 writes in a row were accepted, want a limit")
			}
			continue
		}
		if i < 30 {
			t.Errorf("write %d was refused, want at least 30 accepted", i)
		}
		checkProblem(t, a, http.StatusTooManyRequests)
		if a.header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After %q, want 2", a.header.Get("Retry-After"))
		}
		break
	}
	if a := h.get(settingsPath, "alice"); a.status != http.StatusOK {
		t.Errorf("reading after the limit of writes: status %d, want 200", a.status)
	}
	if a := h.do("PATCH", settingsPath, "bob", `{}`); a.status != http.StatusOK {
		t.Errorf("another user's write: status %d, want 200", a.status)
	}
}

func TestAPI_AnswersUnavailableWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	callEachRoute(func(method, path, body string) {
		a := h.do(method, path, "alice", body)
		checkProblem(t, a, http.StatusServiceUnavailable)
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: a 503 has no Retry-After", method, path)
		}
	})
	checkProblem(t, h.get(statusPath, "alice"), http.StatusServiceUnavailable)
	h.until("Ready reports that the database is unavailable", func() bool { return !h.Snapshot().Components["database"].OK })
	if a := h.get("/healthz/ready", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("ready: status %d, body %s; want 503", a.status, a.body)
	}
	if a := h.get("/healthz/live", ""); a.status != http.StatusOK {
		t.Errorf("live: status %d, body %s; want 200", a.status, a.body)
	}
}

func TestAPI_AnswersUnknownRoutesAndMethodsWithProblems(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	for _, path := range []string{"/", "/nothing", "/settings/", "/settings/x", "/sessions/a/b", "/%00", "/settings%00", "/settings/%00", "/sessions%00"} {
		checkProblem(t, h.get(automation.BasePath+path, "alice"), http.StatusNotFound)
	}
	for _, tt := range []struct{ method, path, allow string }{
		{"OPTIONS", settingsPath, "DELETE, GET, HEAD, PATCH, POST, PUT"},
		{"POST", sessionsPath, "GET, HEAD"},
		{"GET", sessionsPath + "/0x1", "DELETE"},
		{"PUT", statusPath, "GET, HEAD"},
	} {
		a := h.do(tt.method, tt.path, "alice", "")
		checkProblem(t, a, http.StatusMethodNotAllowed)
		if got := a.header.Get("Allow"); got != tt.allow {
			t.Errorf("%s %s: Allow is %q, want %q", tt.method, tt.path, got, tt.allow)
		}
	}
}

func TestAPI_ListsAndEndsOnlyTheUsersOwnSessions(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	id := h.chat("alice").header.Get("X-Automation-Session")
	h.untilIdle()
	list := h.get(sessionsPath, "alice").json(t)["sessions"].([]any)
	if len(list) != 1 {
		t.Fatalf("alice has the sessions %v, want one", list)
	}
	s := list[0].(object)
	if s["id"] != id || s["model"] != "llama" || s["model_id"] != proxyroutertest.ModelID("llama") || s["state"] != "idle" {
		t.Errorf("alice's session is %v, want %s of llama and idle", s, id)
	}
	openedAt, _ := time.Parse(time.RFC3339Nano, s["opened_at"].(string))
	endsAt, _ := time.Parse(time.RFC3339Nano, s["ends_at"].(string))
	if d := endsAt.Sub(openedAt); d != time.Hour { // the chain's duration is some seconds longer
		t.Errorf("the session lasts %v, want 1h", d)
	}
	if list := h.get(sessionsPath, "bob").json(t)["sessions"].([]any); len(list) != 0 {
		t.Errorf("bob's list has %v, want none", list)
	}
	checkProblem(t, h.do("DELETE", sessionsPath+"/"+id, "bob", ""), http.StatusNotFound)
	for _, other := range []string{"0x1", "%00", "%ff", strings.Repeat("a", 3000)} {
		checkProblem(t, h.do("DELETE", sessionsPath+"/"+other, "alice", ""), http.StatusNotFound)
	}
	a := h.do("DELETE", sessionsPath+"/"+strings.ToUpper(id), "alice", "") // hex digits in either case
	if a.status != http.StatusOK || a.json(t)["state"] != "ending" {
		t.Fatalf("status %d, body %s; want 200 and the state ending", a.status, a.body)
	}
	h.until("the node has closed the session", func() bool { return h.node.Stats().Closes == 1 })
	h.until("the list is empty", func() bool { return len(h.get(sessionsPath, "alice").json(t)["sessions"].([]any)) == 0 })
	checkProblem(t, h.do("DELETE", sessionsPath+"/"+id, "alice", ""), http.StatusNotFound)
}

func TestAPI_ListsASessionInUseOfAnUnnamedModel(t *testing.T) {
	t.Parallel()
	hold, entered := make(chan struct{}), make(chan struct{})
	h := newHarness(t, setup{next: func(http.ResponseWriter, *http.Request) { close(entered); <-hold }})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // otherwise the server's Close waits for the handler
	done := make(chan answer, 1)
	r := h.request("POST", hostPath, "alice", chatBody(proxyroutertest.ModelID("qwen")))
	go func() { done <- h.send(r) }()
	<-entered
	writeJSON(t, h.cfg.MappingsFile, mappingsWithout("Qwen 3:web"))
	h.until("the model has lost its name", func() bool { return !strings.Contains(h.get("/api/v1/models", "").body, "Qwen") })
	s := h.get(sessionsPath, "alice").json(t)["sessions"].([]any)[0].(object)
	if s["state"] != "in_use" || s["model"] != proxyroutertest.ModelID("qwen") {
		t.Errorf("the session is %v, want it in use, with the id as its model's name", s)
	}
	release()
	<-done
}

func TestModels_AreListedInOpenAIsShape(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{withFeed: true})
	var got []string
	for _, m := range h.get("/api/v1/models", "").json(t)["data"].([]any) {
		got = append(got, fmt.Sprint(m.(object)["id"], " ", m.(object)["model_type"]))
	}
	if diff := cmp.Diff([]string{"embedder EMBEDDING", "llama LLM", "möwe <nil>", "Qwen 3:web <nil>", "whisper STT"}, got); diff != "" {
		t.Errorf("models and their types (-want +got):\n%s", diff)
	}
	idle := newHarness(t, setup{skipRun: true})
	checkUnavailable(t, idle.get("/api/v1/models", ""))
}
