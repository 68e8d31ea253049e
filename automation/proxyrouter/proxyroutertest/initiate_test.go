package proxyroutertest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestLostStorage_IsHealed(t *testing.T) {
	for preset, text := range map[string]string{"lost-storage": `{"error":"provider not found"}`, "provider-lost-storage": "user not found"} {
		for heal, by := range map[string]func(p caller, id string){
			"by initiating the session":                 func(p caller, id string) { p.call("POST", "/proxy/sessions/initiate", p.initiation(id), nil, 200) },
			"by opening another with the same provider": func(p caller, _ string) { p.open() },
		} {
			t.Run(preset+" "+heal, func(t *testing.T) {
				p := start(t, proxyroutertest.Options{})
				id := p.open()
				p.node.Inject(proxyroutertest.Fault{Name: preset})
				for range 2 {
					wantText(t, p.call("POST", "/v1/chat/completions", hello, on(id), 500), text)
				}
				p.call("GET", "/blockchain/sessions/"+id, "", nil, 200) // the chain lost nothing
				by(p, id)
				p.call("POST", "/v1/chat/completions", hello, on(id), 200)
			})
		}
	}
}

// initiation is what initiating a session takes, from what the node itself lists.
func (p caller) initiation(id string) string {
	p.t.Helper()
	var got struct {
		Session   struct{ User, Provider, BidID string }
		Providers []struct{ Address, Endpoint string }
	}
	for _, path := range []string{"/blockchain/sessions/" + id, "/blockchain/providers"} {
		if err := json.Unmarshal([]byte(p.call("GET", path, "", nil, 200)), &got); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, provider := range got.Providers {
		if provider.Address == got.Session.Provider {
			return fmt.Sprintf(`{"user":%q,"provider":%q,"spend":"123456789012345678901234","providerUrl":%q,"bidId":%q}`,
				got.Session.User, provider.Address, provider.Endpoint, got.Session.BidID)
		}
	}
	p.t.Fatalf("%+v does not list the provider", got)
	return ""
}

func TestInitiate_RejectsIncompleteRequests(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	good := p.initiation(p.open())
	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"no JSON":                {"x", 400},
		"no user":                {strings.Replace(good, `"user"`, `"usr"`, 1), 400},
		"no bid":                 {strings.Replace(good, `"bidId"`, `"bid"`, 1), 400},
		"no spend":               {strings.Replace(good, `"spend"`, `"stake"`, 1), 400},
		"another provider's URL": {strings.Replace(good, "provider-", "other-", 1), 500},
	} {
		t.Run(name, func(t *testing.T) { p.call("POST", "/proxy/sessions/initiate", test.body, nil, test.status) })
	}
	if n := p.node.Stats().Initiations; n != 0 {
		t.Errorf("%d initiations", n)
	}
}

func TestTranscript_IsSharedByEveryoneWithItsChatID(t *testing.T) {
	var seen string
	p := start(t, proxyroutertest.Options{OnChat: func(_ *http.Request, body []byte) { seen = string(body) }})
	id := p.open()
	header := on(id)
	header.Set("chat_id", strings.Repeat("ab", 32))
	secret := `{"messages":[{"role":"user","content":"alice's secret"}]}`
	p.call("POST", "/v1/chat/completions", secret, header, 200)
	p.call("POST", "/v1/chat/completions", hello, header, 200) // somebody else's
	wantText(t, seen, "alice's secret", "You said: alice's secret", "hello there")
	wantText(t, p.call("GET", "/v1/chats/0x"+strings.Repeat("AB", 32), "", nil, 200), "alice's secret", "hello there")

	p.call("POST", "/v1/chat/completions", hello, on(id), 200)
	if strings.Contains(seen, "alice") {
		t.Errorf("without a chat_id: %s", seen)
	}
	p.call("GET", "/v1/chats/0x"+strings.Repeat("cd", 32), "", nil, 500)
	header.Set("chat_id", "chat-1")
	wantText(t, p.call("POST", "/v1/chat/completions", hello, header, 400), "chat_id")
}

func TestStakes_OfAnEarlyCloseComeBackByRequest(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 0).UTC()}
	p := start(t, proxyroutertest.Options{Now: clock.now})
	stakes := func() string { return p.call("GET", "/blockchain/stakes/onhold", "", nil, 200) }
	early, late := p.open(), p.open()
	p.call("POST", "/blockchain/sessions/"+early+"/close", "", nil, 200)
	wantText(t, stakes(), `"available":0`, `"hold":123456789012345678901234`)
	p.call("POST", "/blockchain/stakes/withdraw", "", nil, 500)
	clock.Time = clock.Add(24 * time.Hour)
	p.call("POST", "/blockchain/sessions/"+late+"/close", "", nil, 200)
	for range 2 {
		wantText(t, stakes(), `"available":123456789012345678901234`, `"hold":0`)
	}
	p.call("POST", "/blockchain/stakes/withdraw", "", nil, 200)
	wantText(t, stakes(), `"available":0`, `"hold":0`)
}
