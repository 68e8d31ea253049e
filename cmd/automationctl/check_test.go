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
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()

	sh := shell{t: t, env: map[string]string{"AUTOMATION_CHECK_KEY": "sk-probe"}}
	for _, tc := range []struct {
		args  []string
		code  int
		want  string // in the output
		opens int    // sessions opened so far
	}{
		{[]string{"check", gateway.URL}, 0, "status", 0},
		{[]string{"check", gateway.URL, "--chat", "no such model"}, codeFailed, "not known", 0},
		{[]string{"check", gateway.URL, "--chat", "llama"}, 0, "served by session 0x", 1},
		{[]string{"check", gateway.URL + "/elsewhere"}, codeFailed, "404", 1},
		{[]string{"check", closed.URL, "--json"}, codeFailed, "refused", 1},
		{[]string{"check", "ftp://x"}, codeUsage, "expected the gateway's URL", 1},
		{[]string{"check", "https://user:hunter2@x"}, codeUsage, "expected the gateway's URL", 1},
	} {
		r := sh.run(tc.args...)
		output := r.out + r.errs
		if r.code != tc.code || !strings.Contains(output, tc.want) {
			t.Errorf("%v: exit %d, want %d and %q in\n%s", tc.args, r.code, tc.code, tc.want, output)
		}
		if strings.Contains(output, "sk-probe") || strings.Contains(output, "hunter2") {
			t.Errorf("%v prints the key or the password:\n%s", tc.args, output)
		}
		if opens := g.Node.Stats().Opens; opens != tc.opens {
			t.Errorf("%v: %d sessions opened, want %d", tc.args, opens, tc.opens)
		}
	}
	if r := (shell{t: t}).run("check", gateway.URL, "--chat", "llama"); r.code != codeUsage {
		t.Errorf("a chat without a key: exit %d, want %d", r.code, codeUsage)
	}
}
