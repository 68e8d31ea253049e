package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
)

func TestCheck_OpensNothingPaidUnlessAsked(t *testing.T) {
	g := automationtest.New(t, automationtest.Options{})
	g.On("probe")
	mux := http.NewServeMux()
	mux.Handle("/healthz/live", g.Live())
	mux.Handle("/healthz/ready", g.Ready())
	mux.Handle(automation.BasePath+"/", g.API())
	mux.Handle("/api/v1/chat/completions", g.Forward())
	gateway := httptest.NewServer(mux)
	defer gateway.Close()
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()

	sh := shell{t: t, env: map[string]string{"AUTOMATION_CHECK_KEY": "sk-probe"}}
	for _, tc := range []struct {
		args  []string
		code  int
		holds string
		opens int
	}{
		{[]string{"check", gateway.URL}, 0, "status", 0},
		{[]string{"check", gateway.URL, "--chat", "no such model"}, codeFailed, "not known", 0},
		{[]string{"check", gateway.URL, "--chat", "llama"}, 0, "served by session 0x", 1},
		{[]string{"check", gateway.URL + "/elsewhere"}, codeFailed, "404", 1},
		{[]string{"check", away.URL, "--json"}, codeFailed, "refused", 1},
		{[]string{"check", "ftp://x"}, codeUsage, "expected the gateway's URL", 1},
		{[]string{"check", "https://user:hunter2@x"}, codeUsage, "expected the gateway's URL", 1},
	} {
		r := sh.run(tc.args...)
		if r.code != tc.code || !strings.Contains(r.out+r.errs, tc.holds) || strings.Contains(r.out+r.errs, "sk-probe") || strings.Contains(r.out+r.errs, "hunter2") {
			t.Errorf("%v: code %d, want %d and %q:\n%s%s", tc.args, r.code, tc.code, tc.holds, r.out, r.errs)
		}
		if opens := g.Node.Stats().Opens; opens != tc.opens {
			t.Errorf("%v: %d sessions paid, want %d", tc.args, opens, tc.opens)
		}
	}
	if r := (shell{t: t}).run("check", gateway.URL, "--chat", "llama"); r.code != codeUsage {
		t.Errorf("a chat without a key: code %d", r.code)
	}
}
