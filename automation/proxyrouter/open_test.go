package proxyrouter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

var sentinels = map[string]error{
	"not opened":   session.ErrNotOpened,
	"unavailable":  session.ErrUnavailable,
	"collision":    session.ErrWalletCollision,
	"unauthorized": session.ErrUnauthorized,
	"not found":    session.ErrSessionNotFound,
	"cancelled":    context.Canceled,
	"deadline":     context.DeadlineExceeded,
}

// wantErrors checks that err wraps exactly the named sentinels.
func wantErrors(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that wraps %q", want)
	}
	wanted, got := map[string]bool{}, map[string]bool{}
	for _, name := range want {
		wanted[name] = true
	}
	for name, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			got[name] = true
		}
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("the error %q wraps (-want +got):\n%s", err, diff)
	}
}

func TestSession_OpensAndCloses(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	id := open(t, c)
	s, err := c.GetSession(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	want := session.ChainSession{
		ID: id, ModelID: model, Provider: proxyroutertest.ProviderAddress(0),
		OpenedAt: s.OpenedAt, EndsAt: s.OpenedAt.Add(time.Hour - time.Second),
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
	for range 2 { // closing it again is a success
		if err := c.CloseSession(t.Context(), id); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if s, err = c.GetSession(t.Context(), id); err != nil || s.ClosedAt.IsZero() {
		t.Errorf("GetSession after the close = %+v, %v; want ClosedAt set", s, err)
	}
	if st := node.Stats(); st.Opens != 1 || st.Closes != 1 || st.EarlyCloses != 1 || st.OpenNow != 0 {
		t.Errorf("stats = %+v, want one open and one early close", st)
	}
}

func TestOpenSession_SendsTheRequestBody(t *testing.T) {
	for name, test := range map[string]struct {
		req  session.OpenRequest
		want map[string]any
	}{
		"without a provider to omit": {
			session.OpenRequest{ModelID: model, Duration: 1800*time.Second + time.Millisecond},
			map[string]any{"sessionDuration": 1800.0, "directPayment": false, "failover": false},
		},
		"with a provider to omit": {
			session.OpenRequest{ModelID: model, Duration: time.Hour, OmitProvider: "0xAb"},
			map[string]any{"sessionDuration": 3600.0, "directPayment": false, "failover": false, "omitProvider": "0xAb"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := serving(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet { // the client reads which provider was chosen
					return
				}
				u, p, _ := r.BasicAuth()
				if u != username || p != password || r.Method != http.MethodPost ||
					r.URL.Path != "/blockchain/models/"+model+"/session" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("unexpected request %s %s with header %v", r.Method, r.URL, r.Header)
				}
				var got map[string]any
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
					t.Errorf("the body is not JSON: %v", err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("body (-want +got):\n%s", diff)
				}
				_, _ = io.WriteString(w, pad(`{"sessionID":"0xABC"}`))
			})
			if id, err := c.OpenSession(t.Context(), test.req); err != nil || id != sessionID {
				t.Errorf("OpenSession = %q, %v; want %q", id, err, sessionID)
			}
		})
	}
}

func TestOpenSession_OmitsTheProvider(t *testing.T) {
	_, c := start(t, proxyroutertest.Options{})
	req := openRequest()
	req.OmitProvider = strings.ToUpper(proxyroutertest.ProviderAddress(0))
	id, err := c.OpenSession(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.GetSession(t.Context(), id); err != nil || s.Provider != proxyroutertest.ProviderAddress(1) {
		t.Errorf("session = %+v, %v; want one of the second provider", s, err)
	}
}

func TestOpenSession_MapsErrors(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		text   string
		want   []string // empty: the outcome is unknown
	}{
		"no auth":                  {401, "no basic auth provided", []string{"unauthorized", "not opened"}},
		"bad auth":                 {401, "invalid username or password", []string{"unauthorized", "not opened"}},
		"no right":                 {403, "method not allowed", []string{"unauthorized", "not opened"}},
		"malformed":                {400, "invalid model id", []string{"not opened"}},
		"no such route":            {404, "404 page not found", []string{"not opened"}},
		"no such method":           {405, "", []string{"not opened"}},
		"too short":                {500, "EVM error: SessionTooShort() []", []string{"not opened"}},
		"no provider":              {500, "No provider accepting session", []string{"not opened"}},
		"no bids":                  {500, "no bids available", []string{"not opened"}},
		"no MOR, perhaps paid":     {500, "insufficient MOR balance", nil},
		"no ETH, perhaps paid":     {500, "insufficient ETH for gas", nil},
		"nonce too low":            {500, "failed: nonce too low: next nonce 7", []string{"collision"}},
		"nonce too high":           {500, "Nonce Too High", []string{"collision"}},
		"replacement":              {500, "replacement transaction underpriced", []string{"collision"}},
		"underpriced":              {500, "transaction underpriced", []string{"collision"}},
		"already known":            {500, "ALREADY KNOWN", []string{"collision"}},
		"invalid nonce":            {500, "invalid nonce", []string{"collision"}},
		"incorrect nonce":          {500, "incorrect nonce", []string{"collision"}},
		"refused after collisions": {500, "no provider accepting session: nonce too low", []string{"collision"}},
		"another 500":              {500, "execution reverted", nil},
		"a proxy's time-out":       {504, "no bids available", nil},
		"a proxy's collision":      {502, "nonce too low", nil},
		"a limit":                  {429, "slow down", nil},
		"a session not found":      {500, "session not found", nil},
	} {
		t.Run(name, func(t *testing.T) {
			node, c := start(t, proxyroutertest.Options{})
			node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Status: test.status, Text: test.text})
			id, err := c.OpenSession(t.Context(), openRequest())
			if id != "" {
				t.Errorf("a failed open returns the id %q", id)
			}
			wantErrors(t, err, test.want...)
			message, ok := strings.CutPrefix(err.Error(), fmt.Sprintf("proxyrouter: open session: node answered %d: ", test.status))
			if !ok || message == "" || (test.text != "" && message != test.text) {
				t.Errorf("error = %q, want operation, status %d and the node's text %q", err, test.status, test.text)
			}
		})
	}
}

func TestOpenSession_KnowsTheRefusalsBeforeTheTransaction(t *testing.T) {
	for _, text := range []string{
		"approve MOR allowance failed: EOF", "failed to initiate session: timeout", "failed to parse token supply", "failed to parse token budget",
		"can't get model", "failed to get bid: EOF", "failed to get my address", "failed to get min stake: EOF", "low agent user allowance",
		"cannot get private key", `no provider accepting session: [{"provider":"0x1","reason":"tee_unverified"}]`,
	} {
		t.Run(text, func(t *testing.T) {
			node, c := start(t, proxyroutertest.Options{})
			node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Text: text})
			_, err := c.OpenSession(t.Context(), openRequest())
			wantErrors(t, err, "not opened")
		})
	}
}

// Every preset with which an open fails, and what is certain then.
func TestOpenSession_UnderstandsTheSimulatedNodesPresets(t *testing.T) {
	for name, test := range map[string]struct {
		want  []string
		opens int
	}{
		"open-refused":        {[]string{"not opened"}, 0},
		"open-refused-stake":  {[]string{"not opened"}, 0},
		"open-nonce":          {[]string{"collision"}, 0},
		"open-no-eth-paid":    {nil, 1},
		"open-lost-reply":     {nil, 1},
		"open-error-paid":     {nil, 1},
		"open-hangs":          {[]string{"deadline"}, 0},
		"open-hangs-paid":     {[]string{"deadline"}, 1},
		"credentials-refused": {[]string{"unauthorized", "not opened"}, 0},
		"node-down":           {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node, c, _ := newMemoryNode(t, proxyroutertest.Options{})
				node.Inject(proxyroutertest.Fault{Name: name})
				_, err := c.OpenSession(t.Context(), openRequest())
				wantErrors(t, err, test.want...)
				if n := node.Stats().Opens; n != test.opens {
					t.Errorf("%d sessions opened, want %d", n, test.opens)
				}
			})
		})
	}
}

func TestOpenSession_UnderstandsTheSimulatedNodesRefusals(t *testing.T) {
	_, c := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Providers: []proxyroutertest.Provider{{Address: "0x1", Refuses: true}}},
	}})
	short := openRequest()
	short.Duration = 299 * time.Second
	other := openRequest()
	other.ModelID = proxyroutertest.ModelID("other")
	malformed := openRequest()
	malformed.ModelID = "0x12"
	for _, req := range []session.OpenRequest{short, other, malformed, openRequest()} {
		_, err := c.OpenSession(t.Context(), req)
		wantErrors(t, err, "not opened")
	}
}

func TestOpenSession_RejectsBadRequests(t *testing.T) {
	c := serving(t, func(http.ResponseWriter, *http.Request) { t.Error("a bad request was sent") })
	for name, req := range map[string]session.OpenRequest{
		"no model":        {Duration: time.Hour},
		"a path":          {ModelID: "../wallet", Duration: time.Hour},
		"a long model id": {ModelID: strings.Repeat("a", 129), Duration: time.Hour},
		"no duration":     {ModelID: model},
		"under a second":  {ModelID: model, Duration: time.Second - 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.OpenSession(t.Context(), req)
			wantErrors(t, err, "not opened")
		})
	}
}

func TestOpenSession_OutcomeIsUnknownAfterAMalformedResponse(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON": "ok", "nothing": "", "no id": "{}", "another shape": "[1]", "a number": `{"sessionID":7}`,
		"an id with a path": `{"sessionID":"../x"}`, "a zero id": `{"sessionID":"0x0000"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := answering(t, 200, body).OpenSession(t.Context(), openRequest())
			wantErrors(t, err)
		})
	}
	t.Run("a redirect", func(t *testing.T) {
		c := serving(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})
		_, err := c.OpenSession(t.Context(), openRequest())
		wantErrors(t, err)
		if !strings.Contains(err.Error(), "redirect") {
			t.Errorf("error = %q, want one that names the redirect", err)
		}
	})
}
