package main

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// Two processes on one PostgreSQL and one node: the promises hold across
// replicas, and one of them may be killed.
func TestServer_SharesADatabaseAndANodeWithAnother(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts two servers, about 10 s")
	}
	t.Parallel()
	dsn := pgtest.Database(t)
	db := pgtest.Open(t, dsn)
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{
		OpenLatency: 100 * time.Millisecond, ChunkDelay: 20 * time.Millisecond})
	env := []string{"DATABASE_URL=" + dsn, "PROXY_ROUTER_URL=" + node.URL,
		"AUTOMATION_SESSION_LEASE=6s", "AUTOMATION_SWEEP_INTERVAL=200ms"}
	servers := []*server{startProcess(t, env...), startProcess(t, env...)}
	first, second := servers[0], servers[1]

	// On PostgreSQL the server does not change the flag: nobody has the feature until an
	// operator changes the flag, with the plan's own statement.
	settings := func(s *server) int {
		return s.do(t, http.MethodGet, "/api/v1/automation/settings", "alice", "").status
	}
	rollOut := func(statement string, want int) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		for _, s := range servers {
			eventually(t, "both servers have read: "+statement, func() bool { return settings(s) == want })
		}
	}
	if got := settings(first); got != http.StatusNotFound {
		t.Errorf("before the rollout the settings answer %d", got)
	}
	rollOut(`UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`, http.StatusOK)

	opened := first.chat(t, "alice")
	session := opened.header.Get("X-Automation-Session")
	if opened.status != http.StatusOK || session == "" {
		t.Fatalf("the first chat: %+v", opened)
	}
	if reused := second.chat(t, "alice"); reused.header.Get("X-Automation-Session") != session {
		t.Errorf("the other server does not reuse session %s: %+v", session, reused)
	}

	// Sixty-four at once, by one user, on both.
	var served, retryLater atomic.Int32
	together(64, func(i int) {
		switch a := servers[i%2].chat(t, "alice"); {
		case a.status == http.StatusOK:
			served.Add(1)
		case (a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable) && a.header.Get("Retry-After") != "":
			retryLater.Add(1)
		default:
			t.Errorf("a chat got %+v", a)
		}
	})
	t.Logf("%d of 64 were served, %d got a Retry-After", served.Load(), retryLater.Load())
	if served.Load() < 4 {
		t.Errorf("%d of 64 chats were served, want at least 4: one for each session", served.Load())
	}
	stats := node.Stats()
	if stats.Overlaps != 0 || stats.Unknown != 0 || stats.Opens > 4 {
		t.Errorf("64 chats at once: %d overlaps, %d on unknown sessions, %d opens where 4 are allowed",
			stats.Overlaps, stats.Unknown, stats.Opens)
	}

	// One is killed in the middle of a stream. The other one takes over.
	killed := make(chan answer, 1)
	go func() {
		killed <- first.do(t, http.MethodPost, "/api/v1/chat/completions", "alice",
			`{"model":"llama-3.3-70b","stream":true,"messages":[{"role":"user","content":"`+strings.Repeat("Hello ", 50)+`"}]}`)
	}()
	eventually(t, "the stream has begun", func() bool { return node.Stats().Chats > stats.Chats })
	first.Kill()
	if a := <-killed; a.status != 0 {
		t.Fatalf("the stream came to its end before the server did: %+v", a)
	}
	servers = servers[1:]
	eventually(t, "the other server has every paid session, idle", func() bool {
		states := second.sessions(t, "alice")
		for _, paid := range node.Stats().Sessions {
			if states[paid.ID] != "idle" {
				return false
			}
		}
		return true
	})
	if a := second.chat(t, "alice"); a.status != http.StatusOK {
		t.Errorf("a chat after the kill: %+v", a)
	}
	if after := node.Stats(); after.Opens != stats.Opens || after.Overlaps != 0 || after.EarlyCloses != 0 {
		t.Errorf("%d sessions were paid before the kill; after it: %+v", stats.Opens, after)
	}

	rollOut(`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`, http.StatusNotFound)
	second.Terminate(t)
}
