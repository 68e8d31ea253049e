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
		for name, restore := range map[string]func(h harness, id string){
			"by initiating the session":                 func(h harness, id string) { h.call("POST", "/proxy/sessions/initiate", h.initiation(id), nil, 200) },
			"by opening another with the same provider": func(h harness, _ string) { h.open() },
		} {
			t.Run(preset+" "+name, func(t *testing.T) {
				h := start(t, proxyroutertest.Options{})
				id := h.open()
				h.node.Inject(proxyroutertest.Fault{Name: preset})
				for range 2 {
					wantText(t, h.call("POST", "/v1/chat/completions", hello, on(id), 500), text)
				}
				h.call("GET", "/blockchain/sessions/"+id, "", nil, 200) // the chain lost nothing
				restore(h, id)
				h.call("POST", "/v1/chat/completions", hello, on(id), 200)
			})
		}
	}
}

// initiation returns the body of a request to initiate a session, with the values
// that the node lists.
func (h harness) initiation(id string) string {
	h.t.Helper()
	var got struct {
		Session   struct{ User, Provider, BidID string }
		Providers []struct{ Address, Endpoint string }
	}
	for _, path := range []string{"/blockchain/sessions/" + id, "/blockchain/providers"} {
		if err := json.Unmarshal([]byte(h.call("GET", path, "", nil, 200)), &got); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, provider := range got.Providers {
		if provider.Address == got.Session.Provider {
			return fmt.Sprintf(`{"user":%q,"provider":%q,"spend":"123456789012345678901234","providerUrl":%q,"bidId":%q}`,
				got.Session.User, provider.Address, provider.Endpoint, got.Session.BidID)
		}
	}
	h.t.Fatalf("the provider of the session is not among those of %+v", got)
	return ""
}

func TestInitiate_RejectsIncompleteRequests(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	good := h.initiation(h.open())
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
		t.Run(name, func(t *testing.T) { h.call("POST", "/proxy/sessions/initiate", test.body, nil, test.status) })
	}
	if n := h.node.Stats().Initiations; n != 0 {
		t.Errorf("%d initiations counted, want none", n)
	}
}

func TestTranscript_IsSharedByEveryoneWithItsChatID(t *testing.T) {
	var seen string
	h := start(t, proxyroutertest.Options{OnChat: func(_ *http.Request, body []byte) { seen = string(body) }})
	id := h.open()
	header := on(id)
	header.Set("chat_id", strings.Repeat("ab", 32))
	secret := `{"messages":[{"role":"user","content":"alice's secret"}]}`
	h.call("POST", "/v1/chat/completions", secret, header, 200)
	h.call("POST", "/v1/chat/completions", hello, header, 200) // somebody else's
	wantText(t, seen, "alice's secret", "You said: alice's secret", "hello there")
	wantText(t, h.call("GET", "/v1/chats/0x"+strings.Repeat("AB", 32), "", nil, 200), "alice's secret", "hello there")

	h.call("POST", "/v1/chat/completions", hello, on(id), 200)
	if strings.Contains(seen, "alice") {
		t.Errorf("a request without a chat_id has a transcript: %s", seen)
	}
	h.call("GET", "/v1/chats/0x"+strings.Repeat("cd", 32), "", nil, 500)
	header.Set("chat_id", "chat-1")
	wantText(t, h.call("POST", "/v1/chat/completions", hello, header, 400), "chat_id")
}

func TestStakes_OfEarlyClosesCanBeWithdrawn(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 0).UTC()}
	h := start(t, proxyroutertest.Options{Now: clock.now})
	stakes := func() string { return h.call("GET", "/blockchain/stakes/onhold", "", nil, 200) }
	early, late := h.open(), h.open()
	h.call("POST", "/blockchain/sessions/"+early+"/close", "", nil, 200)
	wantText(t, stakes(), `"available":0`, `"hold":123456789012345678901234`)
	h.call("POST", "/blockchain/stakes/withdraw", "", nil, 500)
	clock.Time = clock.Add(24 * time.Hour)
	h.call("POST", "/blockchain/sessions/"+late+"/close", "", nil, 200)
	for range 2 {
		wantText(t, stakes(), `"available":123456789012345678901234`, `"hold":0`)
	}
	h.call("POST", "/blockchain/stakes/withdraw", "", nil, 200)
	wantText(t, stakes(), `"available":0`, `"hold":0`)
}
