package automationtest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func chat(g *automationtest.Gateway, key, model string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(`{"model":"`+model+`","messages":[{"role":"user","content":"hi"}]}`))
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	w := httptest.NewRecorder()
	g.Forward().ServeHTTP(w, r)
	return w
}

func TestGateway_SwitchesUsersAtOnce(t *testing.T) {
	g := automationtest.New(t, automationtest.Options{Models: []string{"my-model"}})
	for _, step := range []struct {
		on, off []string
		key     string
		want    int
	}{
		{nil, nil, "", http.StatusUnauthorized},
		{nil, nil, "sk-alice", http.StatusBadRequest}, // without the feature a request must name a session
		{[]string{"alice", "bob"}, nil, "sk-alice", http.StatusOK},
		{nil, []string{"alice"}, "sk-alice", http.StatusBadRequest},
		{nil, nil, "sk-bob", http.StatusOK},
		{[]string{"alice"}, nil, "sk-alice", http.StatusOK},
	} {
		g.On(step.on...)
		g.Off(step.off...)
		if w := chat(g, step.key, "my-model"); w.Code != step.want {
			t.Errorf("after On(%v) and Off(%v) the key %q gets status %d %s, want %d", step.on, step.off, step.key, w.Code, w.Body, step.want)
		}
	}
}

func TestGateway_AdvancesTheSessionsClock(t *testing.T) {
	g := automationtest.New(t, automationtest.Options{Config: func(c *automation.Config) {
		c.MaxOpensPerHour, c.DefaultSessionDuration = 2, 10*time.Minute
	}})
	g.On("alice")
	for i, step := range []struct {
		advance time.Duration
		want    int
		opens   int
	}{
		{0, http.StatusOK, 1},
		{5 * time.Minute, http.StatusOK, 1},
		{6 * time.Minute, http.StatusOK, 2},
		{11 * time.Minute, http.StatusTooManyRequests, 2}, // the hour's budget
		{40 * time.Minute, http.StatusOK, 3},
	} {
		g.Advance(step.advance)
		if w := chat(g, "sk-alice", "llama"); w.Code != step.want {
			t.Errorf("step %d: status %d %s, want %d", i, w.Code, w.Body, step.want)
		}
		if opens := g.Node.Stats().Opens; opens != step.opens {
			t.Errorf("step %d: %d sessions opened, want %d", i, opens, step.opens)
		}
	}
	// The module closes ended sessions, and none before its end on the chain.
	poll, timeout := time.NewTicker(5*time.Millisecond), time.NewTimer(5*time.Minute) // long, for an overloaded machine
	defer poll.Stop()
	defer timeout.Stop()
	for g.Node.Stats().Closes < 2 {
		select {
		case <-poll.C:
		case <-timeout.C:
			t.Fatal("the two ended sessions were not closed within five minutes")
		}
	}
	if s := g.Node.Stats(); s.EarlyCloses > 0 || s.Overlaps > 0 {
		t.Errorf("the node's stats are %+v, want no early close and no overlap", s)
	}
}

func TestGateway_AdoptsASessionWhoseOpenHadNoAnswer(t *testing.T) {
	g := automationtest.New(t, automationtest.Options{})
	g.On("alice")
	g.Advance(3 * time.Hour)
	g.Node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, After: true, Mode: proxyroutertest.ModeDrop})
	if w := chat(g, "sk-alice", "llama"); w.Code != http.StatusOK {
		t.Errorf("status %d %s, want 200", w.Code, w.Body)
	}
	if opens := g.Node.Stats().Opens; opens != 1 {
		t.Errorf("%d sessions paid, want only the one whose open had no answer", opens)
	}
}

func TestGateway_ReportsErrorsToTheTest(t *testing.T) {
	tb := &fakeTB{}
	if g := automationtest.New(tb, automationtest.Options{Config: func(c *automation.Config) { c.SessionScope = "everybody" }}); g != nil || len(tb.errors) != 1 {
		t.Errorf("a bad configuration: gateway %v and errors %q, want no gateway and one error", g, tb.errors)
	} // TestMain checks that no goroutine is left
	tb.end()

	tb = &fakeTB{}
	g := automationtest.New(tb, automationtest.Options{})
	_ = g.DB.Close()
	g.On("alice")
	g.Off("alice")
	g.Advance(time.Hour)
	if len(tb.errors) != 3 {
		t.Errorf("without a database: errors %q, want one each from On, Off and Advance", tb.errors)
	}
	tb.end()
}

func TestGateway_UsesTheHostsIdentify(t *testing.T) {
	g := automationtest.New(t, automationtest.Options{Identify: func(r *http.Request) (automation.Identity, error) {
		return automation.Identity{UserID: r.Header.Get("X-User")}, nil
	}})
	g.On("carol")
	h := g.Sessions(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("session_id")) }))
	r := httptest.NewRequest("POST", "/v1/embeddings", strings.NewReader(`{"model":"embedder"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-User", "carol")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if !strings.HasPrefix(w.Body.String(), "0x") {
		t.Errorf("the handler got no session: %d %q", w.Code, w.Body)
	}
}
