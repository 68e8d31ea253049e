package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// balancer forwards requests to replicas in turn. It probes a replica before each
// request, like a load balancer with readiness probes.
type balancer struct {
	replicas atomic.Pointer[[]*server]
	turn     atomic.Int64
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	list := *b.replicas.Load()
	first := int(b.turn.Add(1))
	for i := range list {
		s := list[(first+i)%len(list)]
		if !isServing(r, s) {
			continue
		}
		to, err := url.Parse(s.url)
		if err != nil {
			panic(err)
		}
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }, FlushInterval: -1}).ServeHTTP(w, r)
		return
	}
	http.Error(w, "no replica serves", http.StatusServiceUnavailable)
}

func isServing(r *http.Request, s *server) bool {
	probe, err := http.NewRequestWithContext(r.Context(), http.MethodGet, s.url+"/healthz/serving", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(probe)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// oldProgram builds this server from the commit before the newest migration. If that
// is impossible, for example without the history, it returns the new binary.
func oldProgram(t *testing.T) string {
	t.Helper()
	ups, err := filepath.Glob("../../automation/schema/postgres/*.up.sql")
	if err != nil || len(ups) == 0 {
		t.Fatal(ups, err)
	}
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = "../.."
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	tree := t.TempDir()
	program := filepath.Join(tree, "server")
	added, err := git("log", "--diff-filter=A", "--format=%H", "--", "automation/schema/postgres/"+filepath.Base(ups[len(ups)-1]))
	if err == nil {
		_, err = git("archive", "--output="+filepath.Join(tree, "old.tar"), added+"^")
	}
	for _, args := range [][]string{{"tar", "-xf", "old.tar"}, {"go", "build", "-o", program, "./examples/server"}} {
		if err != nil {
			break
		}
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = tree
		err = cmd.Run()
	}
	if err == nil {
		return program
	}
	t.Logf("the new binary serves as the old one: the older commit cannot be built (%v)", err)
	if program, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestRollingUpdate_FailsNoRequest replaces two replicas one after the other,
// under load, from the old binary on the new schema to the new one.
func TestRollingUpdate_FailsNoRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another commit and replaces two replicas, about 30 s")
	}
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	old := oldProgram(t)
	dsn := pgtest.Start(t, pgtest.Options{}).Database(t)
	pool := pgtest.Open(t, dsn)
	if _, err := schema.Migrate(t.Context(), pool); err != nil { // first, as the manifests' job does
		t.Fatal(err)
	}
	if _, err := pool.ExecContext(t.Context(), `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`); err != nil {
		t.Fatal(err)
	}
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	start := func(program string) *server {
		// The delay exceeds the time from the probe to the request on a busy machine.
		return startProgram(t, program, "DATABASE_URL="+dsn, "PROXY_ROUTER_URL="+node.URL, "SHUTDOWN_DELAY=5s", "AUTOMATION_FLAG_POLL_INTERVAL=100ms")
	}
	b := &balancer{}
	replicas := []*server{start(old), start(old)}
	b.replicas.Store(&replicas)
	front := httptest.NewServer(b)
	defer front.Close()
	traffic := startLoad(t, []*server{{url: front.URL}})
	defer traffic.end()
	awaitMore := func(what string) {
		t.Helper()
		until := traffic.served.Load() + 50
		eventually(t, what, func() bool { return traffic.served.Load() >= until })
	}
	awaitMore("the old replicas serve")
	for i := range replicas {
		// Start the new one before the old one ends, so that there are always two.
		replaced := (*b.replicas.Load())[i]
		both := append([]*server{start(program)}, *b.replicas.Load()...)
		b.replicas.Store(&both)
		awaitMore("the new replica serves as well")
		replaced.Terminate(t)
		remaining := append([]*server{}, replicas...)
		remaining[i] = both[0]
		replicas = remaining
		b.replicas.Store(&remaining)
		awaitMore("the remaining replicas serve")
	}
	traffic.end()
	if s := node.Stats(); s.Overlaps != 0 || s.EarlyCloses != 0 || s.Opens == 0 {
		t.Errorf("%d overlaps, %d early closes, %d opens", s.Overlaps, s.EarlyCloses, s.Opens)
	}
}
