package automation_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

const adminToken = "the-admins-token"

// operator calls a harness's admin API.
type operator struct {
	*harness
	handler http.Handler
}

func newOperator(t *testing.T, s setup) operator {
	t.Helper()
	configure := s.config
	s.config = func(c *automation.Config) {
		c.AdminToken = automation.NewSecret(adminToken)
		if configure != nil {
			configure(c)
		}
	}
	h := newHarness(t, s)
	return operator{h, h.Admin(nil)}
}

// call sends a request to the admin API; headers is a list of names and values in turn.
func (o operator) call(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	o.t.Helper()
	r := httptest.NewRequestWithContext(o.t.Context(), method, automation.AdminPath+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	o.handler.ServeHTTP(w, r)
	return w
}

// expect asserts the status of an answer and that its body contains a text.
func (o operator) expect(w *httptest.ResponseRecorder, status int, text string) {
	o.t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), text) {
		o.t.Errorf("status %d, body %s; want %d and a body with %q", w.Code, w.Body, status, text)
	}
	if media := w.Header().Get("Content-Type"); status >= 400 && media != "application/problem+json" {
		o.t.Errorf("an error has Content-Type %q, want application/problem+json", media)
	}
}

func TestAdmin_RequiresItsToken(t *testing.T) {
	o := newOperator(t, setup{})
	for name, authorization := range map[string]string{"none": "", "wrong": "Bearer " + adminToken[:len(adminToken)-1] + "x", "longer": "Bearer " + adminToken + "2", "bare": adminToken, "a user's": "Bearer sk-alice"} {
		w := o.call("GET", "/flags", "", "Authorization", authorization)
		if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s: status %d, want 401 with a challenge", name, w.Code)
		}
	}
	o.expect(o.call("GET", "/flags", ""), http.StatusOK, `"automation"`)
	o.expect(o.call("GET", "/nothing", ""), http.StatusNotFound, "")
	o.expect(o.call("DELETE", "/flags/automation", ""), http.StatusMethodNotAllowed, "")
}

func TestAdmin_AcceptsBearerInAnyLetterCase(t *testing.T) {
	o := newOperator(t, setup{})
	for _, scheme := range []string{"Bearer", "bearer", "BEARER"} {
		o.expect(o.call("GET", "/flags", "", "Authorization", scheme+" "+adminToken), http.StatusOK, "")
	}
}

func TestAdmin_LimitsWrongTokensOfAnAddress(t *testing.T) {
	o := newOperator(t, setup{})
	callFrom := func(address, token string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "GET", automation.AdminPath+"/flags", nil)
		r.RemoteAddr = address
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		o.handler.ServeHTTP(w, r)
		return w
	}
	for range 10 {
		o.expect(callFrom("192.0.2.7:1000", "wrong"), http.StatusUnauthorized, "")
	}
	for _, token := range []string{"wrong", adminToken} {
		w := callFrom("192.0.2.7:2000", token)
		o.expect(w, http.StatusTooManyRequests, "")
		if w.Header().Get("Retry-After") == "" {
			t.Error("a 429 has no Retry-After")
		}
	}
	o.expect(callFrom("192.0.2.8:1000", adminToken), http.StatusOK, "")
	if !o.log.has("WARN", "wrong token", "192.0.2.7") {
		t.Errorf("no warning in the log names the address of the wrong tokens; the log:\n%s", o.log)
	}
}

func TestAdmin_AnswersInvalidPathsWithNotFound(t *testing.T) {
	o := newOperator(t, setup{})
	for _, path := range []string{"/flags/%00", "/flags/a%00b/events", "/flags/%ff", "/flags/..", "/flags/automation/users/%0a"} {
		o.expect(o.call("GET", path, ""), http.StatusNotFound, "")
	}
}

func TestPatchFlag_EvaluatesPreconditions(t *testing.T) {
	o := newOperator(t, setup{})
	version := func() string { return o.call("GET", "/flags/automation", "").Header().Get("ETag") }
	for _, tt := range []struct {
		name, header, value string
		status              int
	}{
		{"one of them holds", "If-Match", `"900", ` + version() + `, W/"1"`, http.StatusOK},
		{"none of them holds", "If-Match", `"900", "901"`, http.StatusPreconditionFailed},
		{"anything", "If-Match", "*", http.StatusOK},
		{"it is none of these", "If-None-Match", `"900"`, http.StatusOK},
		{"no version may exist", "If-None-Match", "*", http.StatusPreconditionFailed},
		{"no valid version", "If-Match", "2", http.StatusPreconditionFailed},
	} {
		w := o.call("PATCH", "/flags/automation", `{"notice":"`+tt.name+`"}`, tt.header, tt.value)
		o.expect(w, tt.status, "")
	}
}

func TestAdmin_IsNotFoundWithoutAConfiguredToken(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	o := operator{h, h.Admin(nil)}
	for _, path := range []string{"/flags", "/flags/automation"} {
		o.expect(o.call("GET", path, "", "Authorization", "Bearer "), http.StatusNotFound, "")
	}
}

func TestAdmin_LetsAHostAuthorizeItsOperators(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	o := operator{h, h.Admin(func(*http.Request) (string, error) { return "sso:olga", nil })}
	o.expect(o.call("PATCH", "/flags/automation", `{"enabled":false}`), http.StatusOK, `"updated_by":"sso:olga"`)
}

func TestAdmin_ReadsChangesAndExplainsAFlag(t *testing.T) {
	o := newOperator(t, setup{flagSQL: `UPDATE feature_flags SET enabled_user_ids = '[7]' WHERE feature_name = 'automation'`})
	got := o.call("GET", "/flags/automation", "")
	o.expect(got, http.StatusOK, `"enabled_user_ids":["7"]`)
	version := got.Header().Get("ETag")

	o.expect(o.call("PATCH", "/flags/automation", `{"rollout_percentage":10.5,"notice":"soon"}`, "If-Match", version, "X-Automation-Actor", "olga"),
		http.StatusOK, `"rollout_percentage":10.5`)
	o.expect(o.call("PATCH", "/flags/automation", `{"rollout_percentage":50}`, "If-Match", version), http.StatusPreconditionFailed, "changed meanwhile")
	o.expect(o.call("PATCH", "/flags/automation", `{"rollout_percentage":50}`, "If-Match", `W/"2"`), http.StatusPreconditionFailed, "")
	o.expect(o.call("PATCH", "/flags/absent", `{"enabled":true}`), http.StatusNotFound, "")
	for field, body := range map[string]string{
		"rollout_percentage": `{"rollout_percentage":150}`, "enabled_user_ids": `{"enabled_user_ids":[1.5]}`,
		"enabled": `{"enabled":"yes"}`, "colour": `{"colour":"red"}`, "seed": `{"seed":null}`, "notice": `{"notice":"a","notice":"b"}`,
	} {
		o.expect(o.call("PATCH", "/flags/automation", body), http.StatusBadRequest, field)
	}

	o.until("the module has read the change", func() bool { return o.Flags().Flag("automation").Notice == "soon" })
	o.expect(o.call("GET", "/flags/automation/users/7", ""), http.StatusOK, `"reason":"user_enabled"`)
	o.expect(o.call("GET", "/flags/absent/users/7", ""), http.StatusNotFound, "")

	w := o.call("GET", "/flags/automation/events?limit=1", "")
	o.expect(w, http.StatusOK, `"changed_by":"admin:olga"`)
	var list struct{ Events []struct{ ID int64 } }
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Events) != 1 {
		t.Fatalf("events %s, error %v; want one event", w.Body, err)
	}
	o.expect(o.call("GET", "/flags/automation/events?limit=0&before=x", ""), http.StatusBadRequest, "before")
	o.expect(o.call("PATCH", "/flags/automation", `{"enabled":true}`, "X-Automation-Actor", "o\x01lga"), http.StatusUnauthorized, "")
}

func TestAdmin_AnswersUnavailableWithoutTheDatabase(t *testing.T) {
	o := newOperator(t, setup{})
	if err := o.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*httptest.ResponseRecorder{
		o.call("GET", "/flags", ""), o.call("GET", "/flags/automation", ""), o.call("GET", "/flags/automation/events", ""),
		o.call("PATCH", "/flags/automation", `{"enabled":false}`),
	} {
		o.expect(w, http.StatusServiceUnavailable, "database")
		if w.Header().Get("Retry-After") == "" {
			t.Error("a 503 has no Retry-After")
		}
	}
	// A decision needs only the flags in memory.
	o.expect(o.call("GET", "/flags/automation/users/7", ""), http.StatusOK, `"reason"`)
}
