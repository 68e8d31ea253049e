package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// A block is one of the runbook's, to be run in a shell.
type block struct{ section, text string }

var fenced = regexp.MustCompile("(?ms)^## ([^\n]+)$|^```sh\n(.*?)^```$")

func runbook(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	section := ""
	for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
		if m[1] != "" {
			section = m[1]
		} else {
			blocks = append(blocks, block{section, m[2]})
		}
	}
	return blocks
}

// load is a steady one, from users whom the rollout reaches sooner and later.
type load struct {
	stop                   context.CancelFunc
	done                   sync.WaitGroup
	served, aside, settled atomic.Int64
}

func startLoad(t *testing.T, gateways []*server) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(t.Context())
	l.stop = cancel
	for i := range 4 {
		l.done.Go(func() {
			for n := i; ctx.Err() == nil; n += 4 {
				s, user := gateways[n%len(gateways)], fmt.Sprint(1+n%40)
				switch a := s.chat(t, user); {
				case ctx.Err() != nil:
				case a.status == http.StatusOK && a.header.Get("X-Automation-Session") != "":
					l.served.Add(1)
				case a.status == http.StatusBadRequest && strings.Contains(a.body, "session_required"):
					l.aside.Add(1) // the host's own flow: no session, no answer
				default:
					t.Errorf("a chat of user %s: %d %s", user, a.status, a.body)
				}
				switch a := s.do(t, http.MethodGet, "/api/v1/automation/settings", user, ""); {
				case ctx.Err() != nil:
				case a.status == http.StatusOK || a.status == http.StatusNotFound:
					l.settled.Add(1)
				default:
					t.Errorf("settings of user %s: %d %s", user, a.status, a.body)
				}
				for _, path := range []string{"/api/v1/models", "/healthz/live"} {
					if a := s.do(t, http.MethodGet, path, user, ""); a.status != http.StatusOK && ctx.Err() == nil {
						t.Errorf("%s, which is not automation's, suffers: %d %s", path, a.status, a.body)
					}
				}
			}
		})
	}
	return l
}

func (l *load) end() { l.stop(); l.done.Wait() }

// hasten lets all stages but the last one pass after an instant,
// whatever was counted in it, and the last one never.
func hasten(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var plan rollout.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		t.Fatal(err)
	}
	for i := range plan.Stages[:len(plan.Stages)-1] {
		plan.Stages[i].Hold, plan.Stages[i].MinSamples = 300*time.Millisecond, 0
	}
	if text, err = json.Marshal(plan); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRunbook carries out docs/runbook.md from an empty PostgreSQL to 100 %
// and back, with two gateways under load.
func TestRunbook(t *testing.T) {
	if testing.Short() {
		t.Skip("carries out the runbook, about 8 s")
	}
	cluster := pgtest.Start(t, pgtest.Options{})
	dsn := cluster.Database(t)
	work, bin := t.TempDir(), t.TempDir()
	for _, name := range []string{"deploy", "model_mappings.json"} {
		path, err := filepath.Abs(filepath.Join("../..", name))
		if err == nil {
			err = os.Symlink(path, filepath.Join(work, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/automationctl")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := bin + ":" + os.Getenv("PATH")
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(found) > 0 {
		path += ":" + found[len(found)-1]
	}
	env := []string{"PATH=" + path, "HOME=" + work, "DATABASE_URL=" + dsn, "AUTOMATION_ADMIN_TOKEN=the-operators-token"}
	shell := func(b block) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", b.text)
		cmd.Dir, cmd.Env = work, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s:\n%s\n%v\n%s", b.section, b.text, err, out)
		}
		return string(out)
	}
	// The role that the runbook assumes, and gateways that use it.
	shell(block{"set-up", `psql "$DATABASE_URL" -c 'CREATE ROLE gateway LOGIN'`})
	service, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	service.User = url.User("gateway")
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	gateway := func() *server {
		return startProcess(t, "DATABASE_URL="+service.String(), "PROXY_ROUTER_URL="+node.URL, "AUTOMATION_ADMIN_TOKEN=the-operators-token",
			"AUTOMATION_FLAG_POLL_INTERVAL=100ms", "AUTOMATION_ROLLOUT_INTERVAL=200ms")
	}
	var gateways []*server
	var traffic *load
	defer func() {
		if traffic != nil {
			traffic.end()
		}
	}()
	everybody := func() int {
		in := 0
		for user := 1; user <= 40; user++ {
			if gateways[1].do(t, http.MethodGet, "/api/v1/automation/settings", fmt.Sprint(user), "").status == http.StatusOK {
				in++
			}
		}
		return in
	}
	for _, b := range runbook(t) {
		if strings.HasPrefix(b.section, "3.") && gateways == nil {
			gateways = []*server{gateway(), gateway()}
			env = append(env, "GATEWAY="+gateways[0].url)
			traffic = startLoad(t, gateways)
		}
		if strings.Contains(b.text, "deploy/empty.sql") { // the gateways are stopped for it
			traffic.end()
			traffic = nil
			for _, s := range gateways {
				if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := s.cmd.Wait(); err != nil {
					t.Errorf("a gateway did not end well: %v", err)
				}
			}
		}
		// The way back on comes once the rollout has noted that the feature is
		// off: what is back within one of its passes, it never sees.
		off, on, takenBack := strings.Cut(b.text, "automationctl on\n")
		out := shell(block{b.section, off})
		if takenBack {
			eventually(t, "the rollout is paused by the change by hand", func() bool {
				return strings.Contains(shell(block{b.section, "automationctl rollout status automation"}), "paused, by hand_edit")
			})
			shell(block{b.section, "automationctl on" + on})
		}
		switch {
		case strings.Contains(b.text, "'[1, 2, 3]'"):
			eventually(t, "the internal users are in, and nobody else", func() bool { return everybody() == 3 })
		case strings.Contains(b.text, "--percentage 50"):
			eventually(t, "about half are in", func() bool { n := everybody(); return n > 10 && n < 32 })
			if !strings.Contains(out, "rollout_percentage") && !strings.Contains(out, "50") {
				t.Errorf("the audit does not show the change:\n%s", out)
			}
		case strings.Contains(b.text, "> plan.json"):
			hasten(t, filepath.Join(work, "plan.json"))
		case strings.Contains(b.text, "--plan plan.json"):
			eventually(t, "everybody is in, stage by stage", func() bool { return everybody() == 40 })
		case takenBack:
			if !strings.Contains(out, "Automation is paused until about 18:00 UTC.") {
				t.Errorf("users do not see the notice:\n%s", out)
			}
			eventually(t, "everybody is back in", func() bool { return everybody() == 40 })
		}
	}
	if s := node.Stats(); s.Overlaps != 0 || s.EarlyCloses != 0 || s.Opens == 0 {
		t.Errorf("%d overlaps, %d early closes, %d opens", s.Overlaps, s.EarlyCloses, s.Opens)
	}
	// What came back from the dump: everybody in, and the audit of it all.
	back := shell(block{"after the return", `automationctl flags get automation; automationctl flags events automation; automationctl rollout status automation`})
	for _, want := range []string{"100 %", "rollout:automation", "paused, by hand_edit"} {
		if !strings.Contains(back, want) {
			t.Errorf("after the return there is no %q in\n%s", want, back)
		}
	}
}
