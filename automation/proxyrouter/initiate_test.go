package proxyrouter_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// chatStatus sends a chat and returns the status of the answer.
func chatStatus(t *testing.T, c *proxyrouter.Client, id string) int {
	t.Helper()
	resp, err := c.Forward(t.Context(), chatOn(id))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestInitiateSession_HealsLostStorageForFree(t *testing.T) {
	for _, preset := range []string{"lost-storage", "provider-lost-storage"} {
		t.Run(preset, func(t *testing.T) {
			node, c := start(t, proxyroutertest.Options{})
			first, second := open(t, c), open(t, c)
			node.Inject(proxyroutertest.Fault{Name: preset})
			if got := chatStatus(t, c, first); got != 500 {
				t.Fatalf("a chat after the loss has status %d, want 500", got)
			}
			for range 2 { // a second time does no harm
				if err := c.InitiateSession(t.Context(), strings.ToUpper(first[2:])); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range []string{first, second} {
				if got := chatStatus(t, c, id); got != 200 {
					t.Errorf("a chat after InitiateSession has status %d, want 200", got)
				}
			}
			if s := node.Stats(); s.Opens != 2 || s.Closes != 0 || s.Initiations != 2 {
				t.Errorf("stats = %+v, want 2 opens, no close and 2 initiations", s)
			}
		})
	}
}

func TestInitiateSession_Fails(t *testing.T) {
	for name, test := range map[string]struct {
		fault proxyroutertest.Fault
		want  []string
	}{
		"the provider does not answer":     {proxyroutertest.Fault{Op: proxyroutertest.OpInitiate, Text: "provider request failed"}, nil},
		"the session cannot be read":       {proxyroutertest.Fault{Name: "get-rpc-error"}, nil},
		"the providers cannot be read":     {proxyroutertest.Fault{Op: proxyroutertest.OpProviders}, nil},
		"the providers are not JSON":       {proxyroutertest.Fault{Op: proxyroutertest.OpProviders, Status: 200, Body: "x"}, nil},
		"the provider is not listed":       {proxyroutertest.Fault{Op: proxyroutertest.OpProviders, Status: 200, Body: `{"providers":[]}`}, nil},
		"the credentials are not accepted": {proxyroutertest.Fault{Name: "credentials-refused"}, []string{"unauthorized"}},
	} {
		t.Run(name, func(t *testing.T) {
			node, c := start(t, proxyroutertest.Options{})
			id := open(t, c)
			node.Inject(test.fault)
			wantErrors(t, c.InitiateSession(t.Context(), id), test.want...)
		})
	}
	_, c := start(t, proxyroutertest.Options{})
	wantErrors(t, c.InitiateSession(t.Context(), sessionID), "not found")
	wantErrors(t, c.InitiateSession(t.Context(), "a/b"))
}

func TestGetSession_DistinguishesAMissingSessionFromAFailedRead(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	id := open(t, c)
	node.Inject(proxyroutertest.Fault{Name: "get-rpc-error", Times: 1})
	_, err := c.GetSession(t.Context(), id)
	wantErrors(t, err)
	_, err = c.GetSession(t.Context(), sessionID)
	wantErrors(t, err, "not found")
	// That a chat fails with "session not found" proves nothing.
	node.Inject(proxyroutertest.Fault{Name: "chat-not-found", Times: 1})
	if got := chatStatus(t, c, id); got != 500 {
		t.Errorf("the chat has status %d, want 500", got)
	}
	if _, err := c.GetSession(t.Context(), id); err != nil {
		t.Errorf("GetSession of a session on the chain: %v", err)
	}
}

func TestIgnoresOmitProvider_IsLearntFromAnOpen(t *testing.T) {
	omit := session.OpenRequest{ModelID: model, Duration: openRequest().Duration, OmitProvider: strings.ToUpper(proxyroutertest.ProviderAddress(0))}
	node, c := start(t, proxyroutertest.Options{})
	for range 2 {
		if _, err := c.OpenSession(t.Context(), omit); err != nil || c.IgnoresOmitProvider() {
			t.Fatalf("an open at a node that honours omitProvider: %v, IgnoresOmitProvider is %t; want nil and false", err, c.IgnoresOmitProvider())
		}
	}
	node.Inject(proxyroutertest.Fault{Name: "old-node"})
	open(t, c)
	if c.IgnoresOmitProvider() {
		t.Error("IgnoresOmitProvider is true after an open without omitProvider")
	}
	node.Inject(proxyroutertest.Fault{Name: "get-rpc-error", Times: 1})
	if _, err := c.OpenSession(t.Context(), omit); err != nil || c.IgnoresOmitProvider() {
		t.Errorf("an open whose session cannot be read: %v, IgnoresOmitProvider is %t; want nil and false", err, c.IgnoresOmitProvider())
	}
	if _, err := c.OpenSession(t.Context(), omit); err != nil || !c.IgnoresOmitProvider() {
		t.Errorf("an open at a node that ignores omitProvider: %v, IgnoresOmitProvider is %t; want nil and true", err, c.IgnoresOmitProvider())
	}
	if n := node.Stats().Opens; n != 5 {
		t.Errorf("%d sessions opened for 5 requests", n)
	}
}

func TestRedirects_AreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		c := serving(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/elsewhere") {
				t.Errorf("a redirect with status %d was followed", status)
			}
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
			if r.URL.Path != "/elsewhere" && r.Method == http.MethodGet {
				w.Header().Set("Location", "/elsewhere")
			}
			w.WriteHeader(status)
		})
		for name, call := range map[string]func() error{
			"open":     func() error { _, err := c.OpenSession(t.Context(), openRequest()); return err },
			"get":      func() error { _, err := c.GetSession(t.Context(), sessionID); return err },
			"close":    func() error { return c.CloseSession(t.Context(), sessionID) },
			"initiate": func() error { return c.InitiateSession(t.Context(), sessionID) },
			"bids":     func() error { _, err := c.RatedBids(t.Context(), model); return err },
		} {
			if err := call(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("node answered %d: a redirect", status)) {
				t.Errorf("%s with redirect %d: %v, want an error that names the redirect", name, status, err)
			}
		}
		resp, err := c.Forward(t.Context(), chatOn(sessionID))
		if err != nil {
			t.Fatalf("chat with redirect %d: %v", status, err)
		}
		if resp.StatusCode != status {
			t.Errorf("chat with redirect %d: status %d", status, resp.StatusCode)
		}
		_ = resp.Body.Close()
	}
}
