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
	p := start(t, proxyroutertest.Options{Username: "u", Password: "p"})
	p.call("GET", "/healthcheck", "", nil, 200)
	for text, header := range map[string]http.Header{
		"no basic auth provided":       nil,
		"invalid basic auth provided":  {"Authorization": {"Bearer x"}},
		"invalid username or password": {"Authorization": {"Basic dTp4"}}, // u:x
	} {
		for _, path := range []string{"/wallet", "/blockchain/models", "/blockchain/sessions/user"} {
			if got := p.call("GET", path, "", header, 401); got != `{"error":"`+text+`"}` {
				t.Errorf("%s: %s", path, got)
			}
		}
		p.call("POST", "/v1/chat/completions", hello, header, 401)
	}
	p.call("GET", "/wallet", "", http.Header{"Authorization": {"Basic dTpw"}}, 200)
}

func TestOpen_BoundsTheDuration(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 999).UTC()}
	p := start(t, proxyroutertest.Options{Now: clock.now, MaxDuration: 2 * time.Hour})
	for seconds, want := range map[int64]int64{300: 299, 4200: 4199, 7200: 7199, 7201: 7199, 1 << 62: 7199} {
		p.call("POST", "/blockchain/models/"+model+"/session", fmt.Sprintf(`{"sessionDuration":%d}`, seconds), nil, 200)
		all := p.node.Stats().Sessions
		s := all[len(all)-1]
		if got := s.EndsAt.Unix() - 1750000000; got != want {
			t.Errorf("%d asked, %d given", seconds, got)
		}
	}
}

func TestOpen_IsRefused(t *testing.T) {
	p := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
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
		"with a number as text":     {model, `{"sessionDuration":"300"}`, 400, "cannot unmarshal"},
		"for no id":                 {"0x12", openBody, 400, "invalid hash length"},
		"for an unknown model":      {proxyroutertest.ModelID("?"), openBody, 500, "no bids available"},
		"for a model without bids":  {proxyroutertest.ModelID("bare"), openBody, 500, "no bids available"},
		"where all refuse":          {proxyroutertest.ModelID("busy"), openBody, 500, `model unhealthy`},
		"where the last is omitted": {model, `{"sessionDuration":300,"omitProvider":"0xa"}`, 500, "skipped: omitted provider"},
	} {
		t.Run(name, func(t *testing.T) {
			wantText(t, p.call("POST", "/blockchain/models/"+test.model+"/session", test.body, nil, test.status), test.text)
		})
	}
	if _, _, err := p.send(t.Context(), "POST", "/blockchain/models/"+model+"/session", `{}`, nil); err == nil {
		t.Error("without a duration the connection is not cut")
	}
	if s := p.node.Stats(); s.Opens != 0 || s.OpenRequests != 5 {
		t.Errorf("stats = %+v", s)
	}
}

func TestOldNode_IgnoresOmitProvider(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	omit := fmt.Sprintf(`{"sessionDuration":300,"omitProvider":%q}`, proxyroutertest.ProviderAddress(0))
	p.call("POST", "/blockchain/models/"+model+"/session", omit, nil, 200)
	p.node.Inject(proxyroutertest.Fault{Name: "old-node"})
	p.call("POST", "/blockchain/models/"+model+"/session", omit, nil, 200)
	s := p.node.Stats().Sessions
	if s[0].Provider != proxyroutertest.ProviderAddress(1) || s[1].Provider != proxyroutertest.ProviderAddress(0) {
		t.Errorf("sessions = %+v", s)
	}
}

func TestStats_CountsWhatHappened(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 0).UTC()}
	p := start(t, proxyroutertest.Options{Now: clock.now, Seed: 7})
	early, late, kept := p.open(), p.open(), p.open()
	p.call("POST", "/v1/chat/completions", hello, on(late), 200)
	p.call("POST", "/blockchain/sessions/"+early+"/close", "", nil, 200)
	clock.Time = clock.Add(3599 * time.Second) // at its end it is not early
	wantText(t, p.call("POST", "/blockchain/sessions/"+late+"/close", "{}", nil, 200), `"tx":"0x`)
	texts := map[string]bool{} // of a closed one they depend on the RPC endpoint
	for range 3 {
		texts[p.call("POST", "/blockchain/sessions/"+late+"/close", "", nil, 500)] = true
	}
	if len(texts) != 3 {
		t.Errorf("closing a closed session: %v", texts)
	}
	wantText(t, p.call("POST", "/blockchain/sessions/"+model+"/close", "", nil, 500), "session not found")
	p.call("POST", "/blockchain/sessions/x/close", "", nil, 400)

	begun := time.Unix(1750000000, 0).UTC()
	made := func(id string, closed time.Time, chats int) proxyroutertest.Session {
		return proxyroutertest.Session{
			ID: id, ModelID: model, Provider: proxyroutertest.ProviderAddress(0),
			OpenedAt: begun, EndsAt: begun.Add(3599 * time.Second), ClosedAt: closed, Chats: chats,
		}
	}
	want := proxyroutertest.Stats{
		OpenRequests: 3, Opens: 3, OpensByModel: map[string]int{model: 3}, Closes: 2, ClosesOfClosed: 3, EarlyCloses: 1, Chats: 1, OpenNow: 1,
		Sessions: []proxyroutertest.Session{made(early, begun, 0), made(late, clock.Time, 1), made(kept, time.Time{}, 0)},
	}
	if diff := cmp.Diff(want, p.node.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestSelfClose_ClosesEndedSessions(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000020, 0).UTC()} // a full minute
	p := start(t, proxyroutertest.Options{Now: clock.now, SelfClose: true})
	id := p.open()
	clock.Time = clock.Add(3599 * time.Second) // over, but the minute is not
	wantText(t, p.call("GET", "/blockchain/sessions/"+id, "", nil, 200), `"ClosedAt":0`)
	clock.Time = clock.Add(time.Second)
	wantText(t, p.call("GET", "/blockchain/sessions/"+id, "", nil, 200), `"ClosedAt":1750003620`)
	p.call("POST", "/blockchain/sessions/"+id+"/close", "", nil, 500)
}

func TestSessions_ComeInPages(t *testing.T) {
	p := start(t, proxyroutertest.Options{Wallet: "0xWallet"})
	for range 12 {
		p.open()
	}
	all := p.node.Stats().Sessions
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
		got := p.call("GET", "/blockchain/sessions/user?"+query, "", nil, 200)
		if n := strings.Count(got, `"Id"`); n != len(want) {
			t.Errorf("%s: %d sessions", query, n)
		}
		at := 0
		for _, i := range want {
			j := strings.Index(got[at:], all[i].ID)
			if j < 0 {
				t.Errorf("%s: session %d is missing or out of place", query, i)
				break
			}
			at += j
		}
	}
	for _, query := range []string{"user=0xWallet&limit=256", "user=0xWallet&limit=x", "user=0xWallet&offset=-1"} {
		p.call("GET", "/blockchain/sessions/user?"+query, "", nil, 400)
	}
}

func TestReads_AnswerLikeTheNode(t *testing.T) {
	p := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Name: "Llama", Providers: []proxyroutertest.Provider{{Address: "0xA"}, {Address: "0xB"}}},
	}})
	id := p.open()
	wantText(t, p.call("GET", "/blockchain/sessions/"+id, "", nil, 200), `"Stake":123456789012345678901234`, `"ClosedAt":0`, `"ModelAgentId":"`+model)
	wantText(t, p.call("GET", "/blockchain/sessions/"+model, "", nil, 500), "session not found")
	p.call("GET", "/blockchain/sessions/x", "", nil, 400)
	wantText(t, p.call("GET", "/blockchain/models/"+model+"/bids/rated", "", nil, 200), `"PricePerSecond":"123456789012345678901234"`, `"Provider":"0xA"`, `"Provider":"0xB"`)
	wantText(t, p.call("GET", "/blockchain/models/"+proxyroutertest.ModelID("?")+"/bids/rated", "", nil, 200), `"bids":[]`)
	p.call("GET", "/blockchain/models/x/bids/rated", "", nil, 400)
	wantText(t, p.call("GET", "/blockchain/models", "", nil, 200), `"Name":"Llama"`, `"ModelType":"LLM"`)
	wantText(t, p.call("GET", "/wallet", "", nil, 200), `"address":"0x`)
}

// serve calls the handler without a network, as a synctest bubble needs it.
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
			t.Fatal(body)
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
					t.Errorf("after %v: %d %s", c.after, status, body)
				}
			})
		}
		all.Wait()
		if s := n.Stats(); s.Collisions != 3 || s.Opens != 3 || s.Closes != 1 {
			t.Errorf("stats = %+v", s)
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
				t.Error(status)
			}
			took = append(took, time.Since(begun))
		}
		for i, d := range took {
			if d < time.Second || d > 3*time.Second || (i > 0 && d == took[i-1]) {
				t.Errorf("latencies = %v", took)
			}
		}
	})
}

func TestSeed_DeterminesIDs(t *testing.T) {
	one, same, other := start(t, proxyroutertest.Options{Seed: 1}), start(t, proxyroutertest.Options{Seed: 1}), start(t, proxyroutertest.Options{Seed: 2})
	a, b, c := one.open(), same.open(), other.open()
	if a != b || a == c || one.open() == a {
		t.Errorf("ids %s, %s, %s", a, b, c)
	}
}
