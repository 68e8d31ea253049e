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

// status sends a chat and returns the answer's status.
func status(t *testing.T, c *proxyrouter.Client, id string) int {
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
			if got := status(t, c, first); got != 500 {
				t.Fatalf("the fault does nothing: %d", got)
			}
			for range 2 { // again does no harm
				if err := c.InitiateSession(t.Context(), strings.ToUpper(first[2:])); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range []string{first, second} {
				if got := status(t, c, id); got != 200 {
					t.Errorf("afterwards: %d", got)
				}
			}
			if s := node.Stats(); s.Opens != 2 || s.Closes != 0 || s.Initiations != 2 {
				t.Errorf("stats = %+v", s)
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
		"the providers are no JSON":        {proxyroutertest.Fault{Op: proxyroutertest.OpProviders, Status: 200, Body: "x"}, nil},
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

func TestGetSession_TellsAMissingSessionFromAFailedRead(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	id := open(t, c)
	node.Inject(proxyroutertest.Fault{Name: "get-rpc-error", Times: 1})
	_, err := c.GetSession(t.Context(), id)
	wantErrors(t, err)
	_, err = c.GetSession(t.Context(), sessionID)
	wantErrors(t, err, "not found")
	// What a chat says of it proves nothing.
	node.Inject(proxyroutertest.Fault{Name: "chat-not-found", Times: 1})
	if got := status(t, c, id); got != 500 {
		t.Errorf("status %d", got)
	}
	if _, err := c.GetSession(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestIgnoresOmitProvider_IsLearntAndForgotten(t *testing.T) {
	omit := session.OpenRequest{ModelID: model, Duration: openRequest().Duration, OmitProvider: strings.ToUpper(proxyroutertest.ProviderAddress(0))}
	node, c := start(t, proxyroutertest.Options{})
	for range 2 {
		if _, err := c.OpenSession(t.Context(), omit); err != nil || c.IgnoresOmitProvider() {
			t.Fatalf("a node that honours it: %v, %t", err, c.IgnoresOmitProvider())
		}
	}
	node.Inject(proxyroutertest.Fault{Name: "old-node"})
	open(t, c) // without the field nothing is learnt
	if c.IgnoresOmitProvider() {
		t.Error("learnt from an open without it")
	}
	node.Inject(proxyroutertest.Fault{Name: "get-rpc-error", Times: 1})
	if _, err := c.OpenSession(t.Context(), omit); err != nil || c.IgnoresOmitProvider() {
		t.Errorf("learnt from a session that cannot be read: %v", err)
	}
	if _, err := c.OpenSession(t.Context(), omit); err != nil || !c.IgnoresOmitProvider() {
		t.Errorf("not learnt: %v", err)
	}
	if n := node.Stats().Opens; n != 5 {
		t.Errorf("%d opens for 5 requests", n)
	}
}

func TestRedirects_AreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		c := serving(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/elsewhere") {
				t.Errorf("%d was followed", status)
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
				t.Errorf("%s, %d: %v", name, status, err)
			}
		}
		resp, err := c.Forward(t.Context(), chatOn(sessionID))
		if err != nil || resp.StatusCode != status {
			t.Errorf("chat, %d: %v", status, err)
		}
		_ = resp.Body.Close()
	}
}
