package proxyrouter_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
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

// wraps checks that err wraps exactly these sentinels.
func wraps(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
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
		t.Errorf("%v: sentinels (-want +got):\n%s", err, diff)
	}
}

func TestASessionLivesFromItsOpenToItsClose(t *testing.T) {
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
	for range 2 { // closed already is success
		if err := c.CloseSession(t.Context(), id); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if s, err = c.GetSession(t.Context(), id); err != nil || s.ClosedAt.IsZero() {
		t.Errorf("closed session = %+v, %v", s, err)
	}
	if st := node.Stats(); st.Opens != 1 || st.Closes != 1 || st.EarlyCloses != 1 || st.OpenNow != 0 {
		t.Errorf("stats = %+v", st)
	}
}

func TestAnOpenSaysWhatItMustToTheNode(t *testing.T) {
	for name, test := range map[string]struct {
		req  session.OpenRequest
		want map[string]any
	}{
		"plainly": {
			session.OpenRequest{ModelID: model, Duration: 1800*time.Second + time.Millisecond},
			map[string]any{"sessionDuration": 1800.0, "directPayment": false, "failover": false},
		},
		"with a provider omitted": {
			session.OpenRequest{ModelID: model, Duration: time.Hour, OmitProvider: "0xAb"},
			map[string]any{"sessionDuration": 3600.0, "directPayment": false, "failover": false, "omitProvider": "0xAb"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := serving(t, func(w http.ResponseWriter, r *http.Request) {
				u, p, _ := r.BasicAuth()
				if u != username || p != password || r.Method != http.MethodPost ||
					r.URL.Path != "/blockchain/models/"+model+"/session" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("request = %s %s, %v", r.Method, r.URL, r.Header)
				}
				var got map[string]any
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("body (-want +got):\n%s", diff)
				}
				_, _ = io.WriteString(w, `{"sessionID":"0xabc"}`)
			})
			if id, err := c.OpenSession(t.Context(), test.req); err != nil || id != "0xabc" {
				t.Errorf("OpenSession = %q, %v", id, err)
			}
		})
	}
}

func TestAnOpenOmitsTheProvider(t *testing.T) {
	_, c := start(t, proxyroutertest.Options{})
	req := hour()
	req.OmitProvider = strings.ToUpper(proxyroutertest.ProviderAddress(0))
	id, err := c.OpenSession(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.GetSession(t.Context(), id); err != nil || s.Provider != proxyroutertest.ProviderAddress(1) {
		t.Errorf("session = %+v, %v", s, err)
	}
}

func TestAFailedOpenMeansWhatTheNodeSaid(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		text   string
		want   []string // nothing: the outcome is unknown
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
		"no MOR":                   {500, "insufficient MOR balance", []string{"not opened"}},
		"no ETH":                   {500, "insufficient ETH for gas", []string{"not opened"}},
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
			id, err := c.OpenSession(t.Context(), hour())
			if id != "" {
				t.Errorf("id = %q", id)
			}
			wraps(t, err, test.want...)
			e, ok := errors.AsType[*proxyrouter.NodeError](err)
			if !ok || e.Status != test.status || e.Op != "open session" || (test.text != "" && e.Message != test.text) || e.Message == "" {
				t.Errorf("error = %+v", e)
			}
		})
	}
}

func TestTheSimulatedChainsOwnRefusalsAreUnderstood(t *testing.T) {
	_, c := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Providers: []proxyroutertest.Provider{{Address: "0x1", Refuses: true}}},
	}})
	short := hour()
	short.Duration = 299 * time.Second
	other := hour()
	other.ModelID = proxyroutertest.ModelID("other")
	malformed := hour()
	malformed.ModelID = "0x12"
	for _, req := range []session.OpenRequest{short, other, malformed, hour()} {
		_, err := c.OpenSession(t.Context(), req)
		wraps(t, err, "not opened")
	}
}

func TestAnOpenThatMakesNoSenseIsNotSent(t *testing.T) {
	c := serving(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	for name, req := range map[string]session.OpenRequest{
		"no model":         {Duration: time.Hour},
		"a path":           {ModelID: "../wallet", Duration: time.Hour},
		"an endless model": {ModelID: strings.Repeat("a", 129), Duration: time.Hour},
		"no duration":      {ModelID: model},
		"under a second":   {ModelID: model, Duration: time.Second - 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.OpenSession(t.Context(), req)
			wraps(t, err, "not opened")
		})
	}
}

func TestAnOpenWithoutAUsableAnswerIsUnknown(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON": "ok", "nothing": "", "no id": "{}", "another shape": "[1]", "a number": `{"sessionID":7}`,
		"an id with a path": `{"sessionID":"../x"}`, "a zero id": `{"sessionID":"0x0000"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := answering(t, 200, body).OpenSession(t.Context(), hour())
			wraps(t, err)
		})
	}
	t.Run("a redirect", func(t *testing.T) {
		c := serving(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("it was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})
		_, err := c.OpenSession(t.Context(), hour())
		wraps(t, err)
		if !strings.Contains(err.Error(), "redirect") {
			t.Error(err)
		}
	})
}

func TestAnOpenThatSucceedsUnseenIsUnknownAndOnTheChain(t *testing.T) {
	for name, fault := range map[string]proxyroutertest.Fault{
		"it answers 500":          {After: true, Status: 500, Text: "context deadline exceeded"},
		"the connection breaks":   {After: true, Mode: proxyroutertest.Drop},
		"the answer is cut":       {Mode: proxyroutertest.Cut},
		"nothing is heard of it":  {After: true, Mode: proxyroutertest.Hang},
		"it takes longer than we": {After: true, Status: 200, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			node, c := start(t, proxyroutertest.Options{}, func(o *proxyrouter.Options) { o.OpenTimeout = 200 * time.Millisecond })
			fault.Op = proxyroutertest.OpOpen
			node.Inject(fault)
			_, err := c.OpenSession(t.Context(), hour())
			if fault.Mode == proxyroutertest.Hang || fault.Delay > 0 {
				wraps(t, err, "deadline")
			} else {
				wraps(t, err)
			}
			list, err := c.WalletSessions(t.Context(), time.Time{})
			if err != nil || len(list) != 1 || node.Stats().Opens != 1 {
				t.Errorf("on the chain: %v, %v", list, err)
			}
		})
	}
}

func TestATransactionIsNeverSentTwice(t *testing.T) {
	for name, onPost := range map[string]func(net.Conn){
		"the node hangs up":               func(c net.Conn) { _ = c.Close() },
		"the node resets the connection":  func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"the node hangs up in the header": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 20") },
		"the node hangs up in the body": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{\"err")
		},
	} {
		t.Run(name, func(t *testing.T) {
			node := newRawNode(t, onPost)
			c := connect(t, node.url)
			// Leaves a connection in the pool, the kind on which requests are repeated.
			if _, err := c.WalletSessions(t.Context(), time.Time{}); err != nil {
				t.Fatal(err)
			}
			_, err := c.OpenSession(t.Context(), hour())
			wraps(t, err)
			if err := c.CloseSession(t.Context(), "0xabc"); err == nil {
				t.Error("close: no error")
			}
			if n := node.posts.Load(); n != 2 {
				t.Errorf("%d requests for an open and a close", n)
			}
		})
	}
}

func TestAnOpenThatNeverLeftIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	_ = l.Close()
	failing := func(err error) func(*proxyrouter.Options) {
		return func(o *proxyrouter.Options) {
			o.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	plain := newRawNode(t, func(net.Conn) {})

	for name, test := range map[string]struct {
		ctx    context.Context
		client *proxyrouter.Client
		want   []string
	}{
		"nobody listens":          {t.Context(), connect(t, nobody), []string{"unavailable"}},
		"the name is unknown":     {t.Context(), connect(t, "http://node.invalid", failing(&net.DNSError{Err: "no such host", Name: "node.invalid"})), []string{"unavailable"}},
		"TLS fails":               {t.Context(), connect(t, strings.Replace(plain.url, "http:", "https:", 1)), []string{"unavailable"}},
		"the caller left before":  {cancelled, connect(t, plain.url), []string{"unavailable", "cancelled"}},
		"the dial takes too long": {t.Context(), connect(t, "http://node", stuck(t), quick), []string{"unavailable", "deadline"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.client.OpenSession(test.ctx, hour())
			wraps(t, err, test.want...)
			e, ok := errors.AsType[*proxyrouter.NodeError](err)
			if !ok || e.Status != 0 {
				t.Errorf("error = %#v", err)
			}
		})
	}
	if n := plain.posts.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// stuck dials until the test ends: a transport goes on dialing when its caller has left.
func stuck(t *testing.T) func(o *proxyrouter.Options) {
	return func(o *proxyrouter.Options) {
		o.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			<-t.Context().Done()
			return nil, t.Context().Err()
		}}
	}
}

func quick(o *proxyrouter.Options) {
	o.OpenTimeout, o.CloseTimeout, o.ReadTimeout = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
}

func TestACallerWhoLeavesMidwayDoesNotKnow(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{OpenLatency: 50 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.OpenSession(ctx, hour())
	wraps(t, err, "deadline")
	node.Close() // returns when the open has ended
	if n := node.Stats().Opens; n != 1 {
		t.Errorf("%d sessions opened", n)
	}
}
