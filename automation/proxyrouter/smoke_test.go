package proxyrouter_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestASessionLivesFromItsOpenToItsClose(t *testing.T) {
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{Username: "u", Password: "p"})
	c, err := proxyrouter.New(proxyrouter.Options{URL: node.URL, Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	model := proxyroutertest.ModelID("llama")
	id, err := c.OpenSession(ctx, session.OpenRequest{ModelID: model, Duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.GetSession(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != id || s.EndsAt.Sub(s.OpenedAt) != time.Hour-time.Second || !s.ClosedAt.IsZero() {
		t.Errorf("session = %+v", s)
	}
	list, err := c.WalletSessions(ctx, s.OpenedAt)
	if err != nil || len(list) != 1 || list[0] != s {
		t.Errorf("wallet sessions = %v, %v", list, err)
	}
	resp, err := c.Forward(ctx, proxyrouter.ChatRequest{
		Path: "/v1/chat/completions", SessionID: id, RequestID: "r1",
		Body: []byte(`{"stream":true,"messages":[{"role":"user","content":"hello there"}]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(body), `"there"`) || !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
		t.Errorf("stream = %s, %v", body, err)
	}
	for range 2 {
		if err := c.CloseSession(ctx, id); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if st := node.Stats(); st.EarlyCloses != 1 || st.Opens != 1 || st.OpenNow != 0 || st.Chats != 1 {
		t.Errorf("stats = %+v", st)
	}
}
