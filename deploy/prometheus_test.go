package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
)

// A Prometheus that scrapes the example server finds every series that the
// rules and the dashboard query, and evaluates all rules.
func TestPrometheus_FindsEverySeriesAtTheExampleServer(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the example server and a Prometheus")
	}
	t.Parallel()
	program := findTool(t, "prometheus")
	gateway := startGateway(t)
	drive(t, gateway)
	if got := send(t, "POST", gateway+"/admin/automation/rollouts/automation", adminToken, everybody); got != http.StatusOK {
		t.Errorf("starting a rollout: status %d, want 200", got)
	}
	api := startPrometheus(t, program, gateway)
	until(t, func() bool {
		var up []struct{ Value []any }
		return query(t, api+"/api/v1/query?query="+url.QueryEscape(`automation_api_requests_total`), &up) && len(up) > 0
	}, func() string { return "Prometheus has not scraped the server" })
	drive(t, gateway) // increase() needs two scrapes

	known := exported()
	wanted := map[string]bool{}
	for _, u := range queried(t) {
		wanted[u.name] = true
	}
	for _, m := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(read(t, rulesFile), -1) {
		wanted[m[1]] = true
	}
	for name := range known {
		wanted[name] = true
	}
	var names []string
	for name := range wanted {
		if known[name] == nil || base(name, known) != name || !isHistogram(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var missing []string
	until(t, func() bool {
		missing = nil
		for _, name := range names {
			var series []map[string]string
			if !query(t, api+"/api/v1/series?"+url.Values{"match[]": {`{__name__="` + name + `"}`}}.Encode(), &series) || len(series) == 0 {
				missing = append(missing, name)
			}
		}
		return len(missing) == 0
	}, func() string { return fmt.Sprintf("Prometheus has no series of the metrics %v", missing) })

	var failing []string
	until(t, func() bool {
		failing = nil
		var rules struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		if !query(t, api+"/api/v1/rules", &rules) {
			return false
		}
		n := 0
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				n++
				if r.Health != "ok" {
					failing = append(failing, r.Name+": "+r.Health+" "+r.LastError)
				}
			}
		}
		return n > 0 && len(failing) == 0
	}, func() string { return fmt.Sprintf("Prometheus cannot evaluate the rules: %v", failing) })

	var count []struct{ Value []any }
	if query(t, api+"/api/v1/query?query="+url.QueryEscape(`count({__name__=~"automation_.+"})`), &count) && len(count) == 1 {
		t.Logf("the module has %v series", count[0].Value[1])
	}
}

// The whole path from a killed node to the alerts. That they fire within two
// minutes is tested with promtool, which has a simulated clock.
func TestAlerts_FireWhenTheNodeIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute or two")
	}
	t.Parallel()
	program := findTool(t, "prometheus")
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	gateway := startGateway(t, "PROXY_ROUTER_URL="+node.URL)
	api := startPrometheus(t, program, gateway)
	const chat = `{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hello"}]}`
	firing := func() map[string]bool {
		var alerts []struct{ Metric map[string]string }
		found := map[string]bool{}
		if query(t, api+"/api/v1/query?query="+url.QueryEscape(`ALERTS{alertstate="firing"}`), &alerts) {
			for _, a := range alerts {
				found[a.Metric["alertname"]] = true
			}
		}
		return found
	}
	served := 0
	untilWithin(t, 2*time.Minute, func() bool {
		if send(t, "POST", gateway+"/api/v1/chat/completions", "sk-alice", chat) == http.StatusOK {
			served++
		}
		return served >= 20
	}, func() string { return fmt.Sprintf("only %d chats were served", served) })
	if f := firing(); f["AutomationNodeUnavailable"] || f["AutomationRequestsFailing"] {
		t.Errorf("alerts fire before the node was killed: %v", f)
	}

	node.Close()
	killed := time.Now()
	var seen map[string]bool
	untilWithin(t, 5*time.Minute, func() bool {
		send(t, "POST", gateway+"/api/v1/chat/completions", "sk-alice", chat)
		seen = firing()
		return seen["AutomationNodeUnavailable"] && seen["AutomationRequestsFailing"]
	}, func() string {
		return fmt.Sprintf("after the node was killed these alerts fire: %v, want AutomationNodeUnavailable and AutomationRequestsFailing", seen)
	})
	t.Logf("AutomationNodeUnavailable and AutomationRequestsFailing fired %v after the node was killed", time.Since(killed).Round(time.Second))
	if get(t, gateway+"/healthz/ready", "") != http.StatusServiceUnavailable {
		t.Error("/healthz/ready does not answer 503 while the node is dead")
	}
	if seen["AutomationErrorRateHigh"] {
		t.Error("AutomationErrorRateHigh fires: a dead node counts as a reason to roll back")
	}
}

// isHistogram reports whether a metric has only series with the suffixes _bucket,
// _count and _sum.
func isHistogram(name string) bool {
	return strings.HasSuffix(name, "_duration_seconds") || strings.HasSuffix(name, "_overhead_seconds") ||
		strings.HasSuffix(name, "_lifetime_seconds") || strings.HasSuffix(name, "_slot_wait_seconds")
}

// startGateway builds and runs the example server.
func startGateway(t *testing.T, env ...string) (base string) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../examples/server").CombinedOutput(); err != nil { //nolint:gosec // ours
		t.Fatalf("go build: %v\n%s", err, out)
	}
	feed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"models":[{"Id":"0x`+strings.Repeat("ab", 32)+`","Name":"fed","IsDeleted":false,"ModelType":"LLM"}]}`)
	}))
	t.Cleanup(feed.Close)
	mapping, err := filepath.Abs("../model_mappings.json")
	if err != nil {
		t.Fatal(err)
	}
	return proctest.StartServer(t, binary, dir, append([]string{"DATABASE_URL=sqlite:" + filepath.Join(dir, "automation.db"), "MODEL_MAPPINGS_FILE=" + mapping,
		"ACTIVE_MODELS_URL=" + feed.URL, "AUTOMATION_ADMIN_TOKEN=" + adminToken, "AUTOMATION_CLEANUP_INTERVAL=1s", "AUTOMATION_SWEEP_INTERVAL=200ms"}, env...)...).URL
}

const (
	adminToken = "the-operators-token"
	everybody  = `{"plan":{"stages":[{"name":"all","percentage":100,"hold":"24h"}]}}`
)

// drive sends some requests of each kind to the gateway.
func drive(t *testing.T, base string) {
	t.Helper()
	const chat = `{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hello"}]}`
	for _, r := range []struct {
		method, path, key, body string
		want                    int
	}{
		{"POST", "/api/v1/chat/completions", "sk-alice", chat, 200},
		{"POST", "/api/v1/chat/completions", "sk-alice", chat, 200},
		{"POST", "/api/v1/chat/completions", "", chat, 401},
		{"POST", "/api/v1/chat/completions", "sk-alice", `{"model":"no-such-model-anywhere"}`, 400},
		{"PUT", "/api/v1/automation/settings", "sk-bob", `{"is_enabled":false,"session_duration":1800}`, 200},
		{"POST", "/api/v1/chat/completions", "sk-bob", chat, 400},
		{"GET", "/api/v1/automation/settings", "sk-bob", "", 200},
		{"GET", "/api/v1/automation/settings", "", "", 401},
		{"GET", "/admin/automation/rollouts", adminToken, "", 200},
	} {
		if got := send(t, r.method, base+r.path, r.key, r.body); got != r.want {
			t.Errorf("%s %s as %q: status %d, want %d", r.method, r.path, r.key, got, r.want)
		}
	}
}

func startPrometheus(t *testing.T, program, gateway string) (base string) {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n  - job_name: gateway\n    static_configs: [{targets: [%q]}]\n",
		rules, strings.TrimPrefix(gateway, "http://"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=error") //nolint:gosec // the path of prometheus
	cmd.Dir = dir
	proctest.Start(t, cmd)
	base = "http://" + address
	until(t, func() bool { return get(t, base+"/-/ready", "") == http.StatusOK }, func() string { return "Prometheus did not become ready" })
	return base
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(t *testing.T, url, key string) int { return send(t, http.MethodGet, url, key, "") }

// send returns the answer's status, or 0 if there is no answer.
func send(t *testing.T, method, url, key, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// query decodes the data of Prometheus' answer, or the results of a PromQL query,
// into v. It reports whether that succeeded.
func query(t *testing.T, url string, v any) bool {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var answer struct{ Data json.RawMessage }
	if json.NewDecoder(resp.Body).Decode(&answer) != nil {
		return false
	}
	var result struct{ Result json.RawMessage }
	if json.Unmarshal(answer.Data, &result) == nil && result.Result != nil {
		answer.Data = result.Result
	}
	return json.Unmarshal(answer.Data, v) == nil
}

// until waits until done returns true. After two minutes it fails the test with
// the text of why.
func until(t *testing.T, done func() bool, why func() string) {
	t.Helper()
	untilWithin(t, 2*time.Minute, done, why)
}

func untilWithin(t *testing.T, bound time.Duration, done func() bool, why func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal(why())
		}
	}
}
