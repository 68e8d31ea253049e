package proxyroutertest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestAuth_GuardsEveryRouteButTheHealthCheck(t *testing.T) {
	h := start(t, proxyroutertest.Options{Username: "u", Password: "p"})
	h.call("GET", "/healthcheck", "", nil, 200)
	for text, header := range map[string]http.Header{
		"no basic auth provided":       nil,
		"invalid basic auth provided":  {"Authorization": {"Bearer x"}},
		"invalid username or password": {"Authorization": {"Basic dTp4"}}, // u:x
	} {
		for _, path := range []string{"/wallet", "/blockchain/models", "/blockchain/sessions/user"} {
			if got := h.call("GET", path, "", header, 401); got != `{"error":"`+text+`"}` {
				t.Errorf("%s answers %s, want the error %q", path, got, text)
			}
		}
		h.call("POST", "/v1/chat/completions", hello, header, 401)
	}
	h.call("GET", "/wallet", "", http.Header{"Authorization": {"Basic dTpw"}}, 200)
}

func TestOpen_BoundsTheDuration(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 999).UTC()}
	h := start(t, proxyroutertest.Options{Now: clock.now, MaxDuration: 2 * time.Hour})
	for seconds, want := range map[int64]int64{300: 299, 4200: 4199, 7200: 7199, 7201: 7199, 1 << 62: 7199} {
		h.call("POST", "/blockchain/models/"+model+"/session", fmt.Sprintf(`{"sessionDuration":%d}`, seconds), nil, 200)
		all := h.node.Stats().Sessions
		s := all[len(all)-1]
		if got := s.EndsAt.Unix() - 1750000000; got != want {
			t.Errorf("a session of %d s ends after %d s, want %d s", seconds, got, want)
		}
	}
}

func TestOpen_IsRefused(t *testing.T) {
	h := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Providers: []proxyroutertest.Provider{{Address: "0xA"}}},
		{ID: proxyroutertest.ModelID("busy"), Providers: []proxyroutertest.Provider{{Address: "0xA", Refuses: true}}},
		{ID: proxyroutertest.ModelID("bare")},
	}})
	for name, test := range map[string]struct {
		model, body string
		status      int
		text        string
	}{
		"below 300 s":               {model, `{"sessionDuration":299}`, 500, "EVM error: SessionTooShort() []"},
		"without JSON":              {model, `x`, 400, "invalid character"},
		"with a quoted duration":    {model, `{"sessionDuration":"300"}`, 400, "cannot unmarshal"},
		"for a malformed id":        {"0x12", openBody, 400, "invalid hash length"},
		"for an unknown model":      {proxyroutertest.ModelID("?"), openBody, 500, "no bids available"},
		"for a model without bids":  {proxyroutertest.ModelID("bare"), openBody, 500, "no bids available"},
		"where all refuse":          {proxyroutertest.ModelID("busy"), openBody, 500, `model unhealthy`},
		"where the last is omitted": {model, `{"sessionDuration":300,"omitProvider":"0xa"}`, 500, "skipped: omitted provider"},
	} {
		t.Run(name, func(t *testing.T) {
			wantText(t, h.call("POST", "/blockchain/models/"+test.model+"/session", test.body, nil, test.status), test.text)
		})
	}
	if _, _, err := h.send(t.Context(), "POST", "/blockchain/models/"+model+"/session", `{}`, nil); err == nil {
		t.Error("an open without a duration is answered, want a closed connection")
	}
	if s := h.node.Stats(); s.Opens != 0 || s.OpenRequests != 5 {
		t.Errorf("stats = %+v, want 5 well-formed requests and no open", s)
	}
}

func TestOldNode_IgnoresOmitProvider(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	omit := fmt.Sprintf(`{"sessionDuration":300,"omitProvider":%q}`, proxyroutertest.ProviderAddress(0))
	h.call("POST", "/blockchain/models/"+model+"/session", omit, nil, 200)
	h.node.Inject(proxyroutertest.Fault{Name: "old-node"})
	h.call("POST", "/blockchain/models/"+model+"/session", omit, nil, 200)
	s := h.node.Stats().Sessions
	if s[0].Provider != proxyroutertest.ProviderAddress(1) || s[1].Provider != proxyroutertest.ProviderAddress(0) {
		t.Errorf("sessions = %+v, want the omitted provider only in the second", s)
	}
}

func TestStats_CountsWhatHappened(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 0).UTC()}
	h := start(t, proxyroutertest.Options{Now: clock.now, Seed: 7})
	early, late, kept := h.open(), h.open(), h.open()
	h.call("POST", "/v1/chat/completions", hello, on(late), 200)
	h.call("POST", "/blockchain/sessions/"+early+"/close", "", nil, 200)
	clock.Time = clock.Add(3599 * time.Second) // at the session's end a close is not early
	wantText(t, h.call("POST", "/blockchain/sessions/"+late+"/close", "{}", nil, 200), `"tx":"0x`)
	texts := map[string]bool{} // the text depends on the RPC endpoint
	for range 3 {
		texts[h.call("POST", "/blockchain/sessions/"+late+"/close", "", nil, 500)] = true
	}
	if len(texts) != 3 {
		t.Errorf("three closes of a closed session have the texts %v, want three different ones", texts)
	}
	wantText(t, h.call("POST", "/blockchain/sessions/"+model+"/close", "", nil, 500), "session not found")
	h.call("POST", "/blockchain/sessions/x/close", "", nil, 400)

	begun := time.Unix(1750000000, 0).UTC()
	sessionOf := func(id string, closed time.Time, chats int) proxyroutertest.Session {
		return proxyroutertest.Session{
			ID: id, ModelID: model, Provider: proxyroutertest.ProviderAddress(0),
			OpenedAt: begun, EndsAt: begun.Add(3599 * time.Second), ClosedAt: closed, Chats: chats,
		}
	}
	want := proxyroutertest.Stats{
		OpenRequests: 3, Opens: 3, OpensByModel: map[string]int{model: 3}, Closes: 2, ClosesOfClosed: 3, EarlyCloses: 1, Chats: 1, OpenNow: 1,
		Sessions: []proxyroutertest.Session{sessionOf(early, begun, 0), sessionOf(late, clock.Time, 1), sessionOf(kept, time.Time{}, 0)},
	}
	if diff := cmp.Diff(want, h.node.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestSelfClose_ClosesEndedSessions(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000020, 0).UTC()} // a full minute
	h := start(t, proxyroutertest.Options{Now: clock.now, SelfClose: true})
	id := h.open()
	clock.Time = clock.Add(3599 * time.Second) // the session has ended, but it is no full minute
	wantText(t, h.call("GET", "/blockchain/sessions/"+id, "", nil, 200), `"ClosedAt":0`)
	clock.Time = clock.Add(time.Second)
	wantText(t, h.call("GET", "/blockchain/sessions/"+id, "", nil, 200), `"ClosedAt":1750003620`)
	h.call("POST", "/blockchain/sessions/"+id+"/close", "", nil, 500)
}

func TestSessions_ComeInPages(t *testing.T) {
	h := start(t, proxyroutertest.Options{Wallet: "0xWallet"})
	for range 12 {
		h.open()
	}
	all := h.node.Stats().Sessions
	for query, want := range map[string][]int{
		"user=0xwallet":                               {11, 10, 9, 8, 7, 6, 5, 4, 3, 2},
		"user=0xwallet&order=asc":                     {11, 10, 9, 8, 7, 6, 5, 4, 3, 2},
		"user=0xwallet&order=ASC":                     {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		"user=0xWallet&limit=2&order=desc":            {11, 10},
		"user=0xWallet&limit=255&offset=10&order=ASC": {10, 11},
		"": {},
		"user=0xWallet&limit=3&offset=9&order=desc":  {2, 1, 0},
		"user=0xWallet&limit=3&offset=99&order=desc": {},
		"user=0xAnother": {},
	} {
		got := h.call("GET", "/blockchain/sessions/user?"+query, "", nil, 200)
		if n := strings.Count(got, `"Id"`); n != len(want) {
			t.Errorf("query %q: %d sessions, want %d", query, n, len(want))
		}
		at := 0
		for _, i := range want {
			j := strings.Index(got[at:], all[i].ID)
			if j < 0 {
				t.Errorf("query %q: session %d is missing or out of place", query, i)
				break
			}
			at += j
		}
	}
	for _, query := range []string{"user=0xWallet&limit=256", "user=0xWallet&limit=x", "user=0xWallet&offset=-1"} {
		h.call("GET", "/blockchain/sessions/user?"+query, "", nil, 400)
	}
}

func TestReads_AnswerLikeTheNode(t *testing.T) {
	h := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Name: "Llama", Providers: []proxyroutertest.Provider{{Address: "0xA"}, {Address: "0xB"}}},
	}})
	id := h.open()
	wantText(t, h.call("GET", "/blockchain/sessions/"+id, "", nil, 200), `"Stake":123456789012345678901234`, `"ClosedAt":0`, `"ModelAgentId":"`+model)
	wantText(t, h.call("GET", "/blockchain/sessions/"+model, "", nil, 500), "session not found")
	h.call("GET", "/blockchain/sessions/x", "", nil, 400)
	wantText(t, h.call("GET", "/blockchain/models/"+model+"/bids/rated", "", nil, 200), `"PricePerSecond":"123456789012345678901234"`, `"Provider":"0xA"`, `"Provider":"0xB"`)
	wantText(t, h.call("GET", "/blockchain/models/"+proxyroutertest.ModelID("?")+"/bids/rated", "", nil, 200), `"bids":[]`)
	h.call("GET", "/blockchain/models/x/bids/rated", "", nil, 400)
	wantText(t, h.call("GET", "/blockchain/models", "", nil, 200), `"Name":"Llama"`, `"ModelType":"LLM"`)
	wantText(t, h.call("GET", "/wallet", "", nil, 200), `"address":"0x`)
}

// serve posts a request to the handler without a network, which a synctest bubble
// does not support.
func serve(ctx context.Context, n *proxyroutertest.Node, path, body string, header http.Header) (int, string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader(body))
	if header != nil {
		r.Header = header
	}
	n.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestTransactions_Collide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := proxyroutertest.New(proxyroutertest.Options{
			OpenLatency: 2 * time.Second, CloseLatency: time.Second, CollisionWindow: 500 * time.Millisecond,
		})
		openPath := "/blockchain/models/" + model + "/session"
		if status, body := serve(t.Context(), n, openPath, openBody, nil); status != 200 {
			t.Fatalf("the first open: status %d %s, want 200", status, body)
		}
		closePath := "/blockchain/sessions/" + n.Stats().Sessions[0].ID + "/close"
		var all sync.WaitGroup
		for _, c := range []struct {
			after  time.Duration
			path   string
			status int
		}{
			{0, openPath, 200},
			{499 * time.Millisecond, openPath, 500},
			{499 * time.Millisecond, closePath, 500},
			{501 * time.Millisecond, closePath, 200}, // the first open continues past its window
			{700 * time.Millisecond, openPath, 500},
			{1100 * time.Millisecond, openPath, 200},
		} {
			all.Go(func() {
				time.Sleep(c.after)
				status, body := serve(context.Background(), n, c.path, openBody, nil)
				if status != c.status || (status == 500 && !strings.Contains(body, "nonce") && !strings.Contains(body, "underpriced")) {
					t.Errorf("after %v, %s answers %d %s, want %d", c.after, c.path, status, body, c.status)
				}
			})
		}
		all.Wait()
		if s := n.Stats(); s.Collisions != 3 || s.Opens != 3 || s.Closes != 1 {
			t.Errorf("stats = %+v, want 3 collisions, 3 opens and one close", s)
		}
	})
}

func TestOpen_ContinuesWhenItsCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := proxyroutertest.New(proxyroutertest.Options{OpenLatency: time.Second, OpenLatencyMax: 3 * time.Second})
		var took []time.Duration
		for range 10 {
			begun := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if status, _ := serve(ctx, n, "/blockchain/models/"+model+"/session", openBody, nil); status != 200 {
				t.Errorf("an open without its caller has status %d, want 200", status)
			}
			took = append(took, time.Since(begun))
		}
		for i, d := range took {
			if d < time.Second || d > 3*time.Second || (i > 0 && d == took[i-1]) {
				t.Errorf("latencies = %v, want different ones from 1 s to 3 s", took)
			}
		}
	})
}

func TestSeed_DeterminesIDs(t *testing.T) {
	one, same, other := start(t, proxyroutertest.Options{Seed: 1}), start(t, proxyroutertest.Options{Seed: 1}), start(t, proxyroutertest.Options{Seed: 2})
	a, b, c, second := one.open(), same.open(), other.open(), one.open()
	if a != b || a == c || a == second {
		t.Errorf("ids %s and %s of one seed, %s of another, %s of a second open; want only the first two equal", a, b, c, second)
	}
}
