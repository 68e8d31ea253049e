package automation_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// Texts that no log may show: what users send, who they are, and the gateway's
// secrets.
const (
	canaryUser    = "canary.user@example.com"
	canaryOther   = "canary.other@example.com"
	canaryKey     = "sk-canary-key-0123456789"
	canaryPrompt  = "canary-prompt: my password is hunter2"
	canaryModel   = "canary-model-nobody-has"
	canaryCookie  = "canary-cookie"
	canaryToken   = "canary-operators-token"
	canaryNode    = "canary-node-password"
	canaryHook    = "canary-hook-path"
	canaryHookKey = "whsec_Y2FuYXJ5LWhvb2stc2VjcmV0LTAxMjM0NTY3ODk="
	canaryWallet  = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
	canaryMail    = "canary.provider@example.com"
	canaryDSN     = "canary-dsn-password"
)

var canaries = []string{canaryUser, canaryOther, canaryKey, canaryPrompt, canaryModel, canaryCookie, canaryToken, canaryNode, canaryHook,
	canaryHookKey, canaryWallet, canaryMail, canaryDSN, "hunter2"}

// wantNoCanary fails for each canary in the log.
func wantNoCanary(t *testing.T, log *logBuffer) {
	t.Helper()
	for line := range strings.Lines(strings.ToLower(log.String())) {
		for _, c := range canaries {
			if strings.Contains(line, strings.ToLower(c)) || strings.Contains(line, strings.ToLower(url.QueryEscape(c))) {
				t.Errorf("the log shows %q:\n%s", c, line)
			}
		}
	}
}

// debugLog returns a logger with all levels, and its log.
func debugLog() (*slog.Logger, *logBuffer) {
	log := &logBuffer{}
	return slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true})), log
}

// identifyCanary knows two users by their keys.
func identifyCanary(r *http.Request) (automation.Identity, error) {
	switch r.Header.Get("Authorization") {
	case "Bearer " + canaryKey:
		return automation.Identity{UserID: canaryUser}, nil
	case "Bearer " + canaryKey + "-other":
		return automation.Identity{UserID: canaryOther}, nil
	}
	return automation.Identity{}, errors.New("no such key")
}

func TestLog_HasNoUserDataAndNoSecrets(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("calls everything that logs, which takes about 10 s")
	}
	logger, log := debugLog()
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, canaryMail, http.StatusInternalServerError)
	}))
	defer hook.Close()
	g := automationtest.New(t, automationtest.Options{Logger: logger, Identify: identifyCanary,
		Node: proxyroutertest.Options{Username: "canary-node-user", Password: canaryNode},
		Config: func(c *automation.Config) {
			c.AdminToken = automation.NewSecret(canaryToken)
			c.RolloutWebhookURL, c.RolloutWebhookSecret = automation.NewSecret(hook.URL+"/"+canaryHook), automation.NewSecret(canaryHookKey)
			c.RolloutInterval = 20 * time.Millisecond
		}})
	mux := http.NewServeMux()
	mux.Handle(automation.BasePath+"/", g.API())
	mux.Handle(automation.AdminPath+"/", g.Admin(nil))
	mux.Handle("/host/", g.Sessions(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })))
	mux.Handle("/", g.Forward())
	server := httptest.NewServer(mux)
	defer server.Close()
	send := func(key, method, path, body string, header ...string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Cookie", "id="+canaryCookie)
		r.Header.Set("Authorization", "Bearer "+key)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			return 0 // a fault cut the connection
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	const chat, api = "/v1/chat/completions", automation.BasePath
	prompt := `{"model":"llama","user":"` + canaryUser + `","messages":[{"role":"user","content":"` + canaryPrompt + `"}]}`
	stream := strings.Replace(prompt, "{", `{"stream":true,`, 1)
	setFault := func(f proxyroutertest.Fault) { g.Node.ClearFaults(); g.Node.Inject(f) }
	nodeText := "signing with private key 0x" + canaryWallet + " failed, tell " + canaryMail + ", password " + canaryNode

	// Operators change the flag, whose lists contain users.
	if send("canary-wrong-token", "GET", automation.AdminPath+"/flags", "") != http.StatusUnauthorized {
		t.Error("the admin API accepts a wrong token")
	}
	send(canaryToken, "PATCH", automation.AdminPath+"/flags/automation", `{"enabled_user_ids":["`+canaryUser+`","`+canaryOther+`"]}`)
	send(canaryToken, "PATCH", automation.AdminPath+"/flags/automation", `{"enabled_user_ids":["`+canaryUser+`",{}]}`)
	send(canaryToken, "PATCH", automation.AdminPath+"/flags/"+url.PathEscape(canaryUser), `{"enabled":true}`)
	send(canaryToken, "GET", automation.AdminPath+"/flags/automation/users/"+url.PathEscape(canaryUser), "")
	g.On(canaryUser, canaryOther)
	send(canaryToken, "POST", automation.AdminPath+"/rollouts/automation", `{"plan":{"stages":[{"name":"some","percentage":0,"users":["`+canaryUser+`"],"hold":"1h"}]}}`)

	// Valid and invalid settings.
	for _, body := range []string{`{"is_enabled":true,"session_duration":600}`, `{"is_enabled":"` + canaryPrompt + `"}`, `{"` + canaryPrompt + `":1}`, canaryPrompt} {
		for _, method := range []string{"GET", "PUT", "PATCH"} {
			send(canaryKey, method, api+"/settings", body)
			send(canaryKey+"-nobody", method, api+"/settings", body)
		}
	}

	// Valid and invalid chats, and a node that fails in many ways.
	if got := send(canaryKey, "POST", chat, prompt); got != http.StatusOK {
		t.Fatalf("chat: status %d, want 200", got)
	}
	if got := send(canaryKey, "POST", "/host"+chat, prompt); got != http.StatusTeapot {
		t.Fatalf("chat through the host's handler: status %d, want 418", got)
	}
	send(canaryKey, "POST", chat, strings.Replace(prompt, "llama", canaryModel, 1))
	send(canaryKey, "POST", chat, strings.Replace(prompt, `"llama"`, `{"x":"`+canaryModel+`"}`, 1))
	send(canaryKey, "POST", chat, prompt[:30])
	send(canaryKey+"-nobody", "POST", chat, prompt)
	send(canaryKey, "POST", chat+"/"+url.PathEscape(canaryUser), prompt)
	send(canaryKey, "POST", chat, prompt, "session_id", canaryCookie)
	for _, f := range []proxyroutertest.Fault{
		proxyroutertest.ProviderModelError(500, "cannot answer "+canaryPrompt),
		proxyroutertest.OldProviderModelError("cannot answer " + canaryPrompt),
		{Op: proxyroutertest.OpChat, Status: 500, Text: nodeText + canaryPrompt},
		{Op: proxyroutertest.OpChat, Status: 400, Body: canaryPrompt},
		{Op: proxyroutertest.OpChat, Text: "session expired " + canaryPrompt},
		{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeDrop},
		{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeCut},
	} {
		setFault(f)
		send(canaryKey, "POST", chat, prompt)
		send(canaryKey, "POST", chat, stream)
		g.Node.ClearFaults()
	}
	for _, f := range []proxyroutertest.Fault{
		// First the one refusal that is certain: after the others the user may have to wait for an open of unknown outcome.
		{Op: proxyroutertest.OpOpen, Times: 1, Text: "no provider accepting session; " + nodeText},
		{Op: proxyroutertest.OpOpen, Times: 1, Text: nodeText},
		{Op: proxyroutertest.OpOpen, Times: 1, Text: "nonce too low; " + nodeText},
		{Op: proxyroutertest.OpOpen, Times: 1, After: true, Text: nodeText},
		{Op: proxyroutertest.OpGet, Text: nodeText},
	} {
		setFault(f)
		send(canaryKey+"-other", "POST", chat, prompt)
		g.Node.ClearFaults()
		g.Advance(2 * time.Hour)
	}

	// Sessions are listed and ended, and the node refuses to close them.
	setFault(proxyroutertest.Fault{Op: proxyroutertest.OpClose, Text: nodeText})
	send(canaryKey, "GET", api+"/sessions", "")
	send(canaryKey, "DELETE", api+"/sessions/"+url.PathEscape(canaryUser), "")
	send(canaryKey, "DELETE", api+"/settings", "")
	if err := g.EraseUser(t.Context(), canaryUser); err != nil {
		t.Error(err)
	}

	// Without its tables everything fails.
	for _, table := range []string{"user_automation_settings", "automation_sessions", "feature_flags"} {
		if _, err := g.DB.ExecContext(t.Context(), `DROP TABLE `+table); err != nil {
			t.Fatal(err)
		}
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		send(canaryKey, method, api+"/settings", `{"is_enabled":true,"session_duration":600}`)
	}
	send(canaryKey, "POST", chat, prompt)
	send(canaryKey, "POST", "/host"+chat, prompt)
	send(canaryKey, "GET", api+"/sessions", "")
	send(canaryKey, "GET", api+"/status", "")
	_ = g.EraseUser(t.Context(), canaryUser)

	for _, message := range []string{"session opened", "session not opened", "settings changed", "flag changed", "request ended", "provider failed"} {
		if !log.has(message) {
			t.Errorf("the log has no %q, so this test does not cover everything that logs", message)
		}
	}
	wantNoCanary(t, log)
}

func TestLog_HasNoDatabasePassword(t *testing.T) {
	logger, log := debugLog()
	db, err := sqlx.Open("postgres", "postgres://gateway:"+canaryDSN+"@127.0.0.1:1/gateway?sslmode=disable&connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cfg := testConfig(t)
	cfg.ProxyRouterURL, cfg.ProxyRouterPassword, cfg.ProxyRouterUsername = "http://127.0.0.1:1", automation.NewSecret(canaryNode), "canary-node-user"
	m, err := automation.New(cfg, db, identifyCanary, automation.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	_ = m.RefreshFlags(t.Context())
	if err := m.EraseUser(t.Context(), canaryUser); err == nil || strings.Contains(err.Error(), canaryUser) || strings.Contains(err.Error(), canaryDSN) {
		t.Errorf("EraseUser: %v; want an error without the user and without the password", err)
	}
	logger.Info("configuration", "config", cfg, "file", filepath.Base(cfg.MappingsFile))
	if !log.has("flags cannot be read") {
		t.Error("the log does not say that the flags cannot be read")
	}
	wantNoCanary(t, log)
}
