package main

import (
	"context"
	"encoding/json"
	"errors"
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
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// A block is a block of shell commands of the runbook.
type block struct{ section, text string }

var fenced = regexp.MustCompile("(?ms)^###? ([^\n]+)$|^```sh\n(.*?)^```$")

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

// load sends a steady stream of requests of 40 users.
type load struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	served atomic.Int64 // chats that automation served
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
				case a.status == http.StatusBadRequest && strings.Contains(a.body, "session_required"): // the user does not have the feature
				default:
					t.Errorf("a chat of user %s: %d %s", user, a.status, a.body)
				}
				switch a := s.do(t, http.MethodGet, "/api/v1/automation/settings", user, ""); {
				case ctx.Err() != nil:
				case a.status == http.StatusOK || a.status == http.StatusNotFound:
				default:
					t.Errorf("settings of user %s: %d %s", user, a.status, a.body)
				}
				for _, path := range []string{"/api/v1/models", "/healthz/live"} {
					if a := s.do(t, http.MethodGet, path, user, ""); a.status != http.StatusOK && ctx.Err() == nil {
						t.Errorf("%s does not depend on automation, but answered %d %s", path, a.status, a.body)
					}
				}
			}
		})
	}
	return l
}

func (l *load) end() { l.stop(); l.done.Wait() }

// shortenPlan changes a plan so that all stages but the last one pass almost at once
// and the last one never does, and so that a busy machine's latency does not count.
func shortenPlan(t *testing.T, path string) {
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
	plan.Stages[len(plan.Stages)-1].Hold = 365 * 24 * time.Hour
	plan.LatencyP95, plan.DatabaseP95 = 10*time.Minute, 10*time.Minute
	if text, err = json.Marshal(plan); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// alembicProject is a migration that creates the tables of a Python gateway: settings
// with a serial id and a foreign key, and the plan's own table of flags.
const alembicProject = `
revision, down_revision = "tables", None
import sqlalchemy as sa
from alembic import op

def upgrade():
    op.create_table("users", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(50)))
    op.create_table("user_automation_settings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), unique=True),
        sa.Column("is_enabled", sa.Boolean), sa.Column("session_duration", sa.Integer),
        sa.Column("created_at", sa.DateTime), sa.Column("updated_at", sa.DateTime))
    op.create_table("feature_flags", sa.Column("feature_name", sa.String(100), primary_key=True),
        sa.Column("enabled", sa.Boolean), sa.Column("enabled_user_ids", sa.JSON))
    op.execute("INSERT INTO users (id, name) SELECT n, 'user ' || n FROM generate_series(1, 40) AS n")
    op.execute("INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES (1, true, 3600), (2, NULL, NULL)")
    op.execute("INSERT INTO feature_flags VALUES ('automation', true, '[]')")
`

// alembic creates a Python gateway's tables with its own tool.
func (r *operation) alembic(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("alembic")
	if err = errors.Join(err, exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import alembic, sqlalchemy, psycopg2").Run()); err != nil {
		if os.Getenv("AUTOMATION_TEST_REQUIRE_POSTGRES") == "1" {
			t.Fatal("alembic is not installed; Debian has it in the packages alembic and python3-psycopg2")
		}
		t.Skip("alembic is not installed; Debian has it in the packages alembic and python3-psycopg2")
	}
	if err := os.WriteFile(filepath.Join(r.work, "tables.py"), []byte(alembicProject), 0o600); err != nil {
		t.Fatal(err)
	}
	r.shell(t, block{"set-up", `
alembic init host
mv tables.py host/versions/
python3 - <<'END'
import os, re
url = re.sub("^postgres(ql)?:", "postgresql+psycopg2:", os.environ["DATABASE_URL"]).replace("%", "%%")
ini = open("alembic.ini").read()
open("alembic.ini", "w").write(re.sub(r"(?m)^sqlalchemy.url = .*$", lambda _: "sqlalchemy.url = " + url, ini))
END
alembic upgrade head`})
}

// operation is a deployment: a database, its gateways, their users, and an operator's
// shell.
type operation struct {
	work     string
	env      []string
	node     *proxyroutertest.Server
	gateways []*server
	traffic  *load
}

func startOperation(t *testing.T, bin string) *operation {
	t.Helper()
	dsn := pgtest.Start(t, pgtest.Options{}).Database(t)
	r := &operation{work: t.TempDir(), node: proxyroutertest.NewServer(t, proxyroutertest.Options{})}
	for _, name := range []string{"deploy", "model_mappings.json"} {
		path, err := filepath.Abs(filepath.Join("../..", name))
		if err == nil {
			err = os.Symlink(path, filepath.Join(r.work, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	path := bin + ":" + os.Getenv("PATH")
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(found) > 0 {
		path += ":" + found[len(found)-1]
	}
	r.env = []string{"PATH=" + path, "HOME=" + r.work, "DATABASE_URL=" + dsn, "AUTOMATION_ADMIN_TOKEN=the-operators-token"}
	if out, err := r.command(t, `pg_dump "$DATABASE_URL" --schema-only`).CombinedOutput(); err != nil && strings.Contains(string(out), "server version mismatch") {
		t.Skipf("the installed pg_dump is older than this server: %s", out)
	}
	// The role that the runbook assumes, and that the gateways use.
	r.shell(t, block{"set-up", `psql "$DATABASE_URL" -c 'CREATE ROLE gateway LOGIN'`})
	t.Cleanup(func() {
		if r.traffic != nil {
			r.traffic.end()
		}
	})
	return r
}

// shell runs a block and returns what it prints.
func (r *operation) shell(t *testing.T, b block) string {
	t.Helper()
	out, err := r.command(t, b.text).CombinedOutput()
	if err != nil {
		t.Fatalf("%s:\n%s\n%v\n%s", b.section, b.text, err, out)
	}
	return string(out)
}

func (r *operation) command(t *testing.T, text string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", text)
	cmd.Dir, cmd.Env = r.work, r.env
	return cmd
}

// deploy starts two gateways under load.
func (r *operation) deploy(t *testing.T) {
	t.Helper()
	service, err := url.Parse(strings.TrimPrefix(r.env[2], "DATABASE_URL="))
	if err != nil {
		t.Fatal(err)
	}
	service.User = url.User("gateway")
	for range 2 {
		r.gateways = append(r.gateways, startProcess(t, "DATABASE_URL="+service.String(), "PROXY_ROUTER_URL="+r.node.URL, "AUTOMATION_ADMIN_TOKEN=the-operators-token",
			"AUTOMATION_FLAG_POLL_INTERVAL=100ms", "AUTOMATION_ROLLOUT_INTERVAL=200ms"))
	}
	r.env = append(r.env, "GATEWAY="+r.gateways[0].url)
	eventually(t, "both gateways have reported", func() bool {
		return strings.Contains(r.shell(t, block{"3.", "automationctl doctor --role gateway || true"}), "2 gateways have reported in the last minute\n")
	})
	r.traffic = startLoad(t, r.gateways)
}

// stop ends the load and the gateways, which report their last counts.
func (r *operation) stop(t *testing.T) {
	t.Helper()
	r.traffic.end()
	r.traffic = nil
	for _, s := range r.gateways {
		s.Terminate(t)
	}
}

// countEnabled counts the users who have the feature at the second gateway.
func (r *operation) countEnabled(t *testing.T) (n int) {
	t.Helper()
	for user := 1; user <= 40; user++ {
		if r.gateways[1].do(t, http.MethodGet, "/api/v1/automation/settings", fmt.Sprint(user), "").status == http.StatusOK {
			n++
		}
	}
	return n
}

// awaitLoad waits until the users have been served so many times more.
func (r *operation) awaitLoad(t *testing.T, chats int64) {
	t.Helper()
	until := r.traffic.served.Load() + chats
	eventually(t, "the users are served", func() bool { return r.traffic.served.Load() >= until })
}

// checkNode fails the test if sessions were shared, closed early, or never opened.
func (r *operation) checkNode(t *testing.T) {
	t.Helper()
	if s := r.node.Stats(); s.Overlaps != 0 || s.EarlyCloses != 0 || s.Opens == 0 {
		t.Errorf("%d overlaps, %d early closes, %d opens", s.Overlaps, s.EarlyCloses, s.Opens)
	}
}

// checkReport fails the test unless the report says that all goals are met. It first
// clears the slow requests, because the machine's speed is not tested here.
func (r *operation) checkReport(t *testing.T, sql string) {
	t.Helper()
	r.shell(t, block{"time passes", `psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1 -q -c "` + sql + `" -c 'UPDATE automation_activity SET slow = 0, db_slow = 0'`})
	out := r.shell(t, block{"report", `automationctl report --users 40 --open-bugs 0`})
	if strings.Count(out, " met ") != 6 {
		t.Errorf("the report is not met:\n%s", out)
	}
}

// TestRunbook carries out docs/runbook.md under load: by hand on the database of
// a Python gateway, and by the controller on an empty one. Each block is run in at
// least one of the two.
func TestRunbook(t *testing.T) {
	if testing.Short() {
		t.Skip("carries out the runbook twice, about 16 s")
	}
	t.Parallel()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/automationctl")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const byHand, before = "By hand", "Back to before the migration"
	t.Run("by hand", func(t *testing.T) {
		t.Parallel()
		r := startOperation(t, bin)
		r.alembic(t)
		columns := `psql "$DATABASE_URL" -Atc "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2" -c 'SELECT * FROM feature_flags' -c 'SELECT * FROM user_automation_settings ORDER BY id'`
		was := r.shell(t, block{"set-up", columns})
		for _, b := range runbook(t) {
			number, _, _ := strings.Cut(b.section, ".")
			if b.section != byHand && (len(number) != 1 || number > "3") {
				continue
			}
			if number == "3" && r.gateways == nil {
				r.deploy(t)
			}
			r.shell(t, b)
			switch {
			case strings.Contains(b.text, "'[1, 2, 3]'"):
				eventually(t, "the internal users are in, and nobody else", func() bool { return r.countEnabled(t) == 3 })
			case strings.Contains(b.text, "--percentage 50"):
				eventually(t, "about half are in", func() bool { n := r.countEnabled(t); return n > 10 && n < 32 })
			}
		}
		r.shell(t, block{byHand, `psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -c "UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'"`})
		eventually(t, "everybody is in", func() bool { return r.countEnabled(t) == 40 })
		r.awaitLoad(t, 100)
		r.stop(t)
		r.checkNode(t)
		r.checkReport(t, `ALTER TABLE feature_flag_events DISABLE TRIGGER USER; UPDATE feature_flag_events SET changed_at = changed_at - interval '73 hours'; ALTER TABLE feature_flag_events ENABLE TRIGGER USER`)
		r.shell(t, block{byHand, `automationctl off --notice 'Back at 18:00.' --actor ann`})
		if out := r.shell(t, block{"report", `automationctl report --users 40 || true`}); !strings.Contains(out, "rolled_back, by hand: not_met") || !strings.Contains(out, "rolled back by ann") || !strings.Contains(out, "Back at 18:00.") {
			t.Errorf("after the way back:\n%s", out)
		}
		for _, b := range runbook(t) {
			if b.section == before {
				if out := r.shell(t, b); !strings.Contains(out, "rows of automation_sessions") {
					t.Errorf("the way back does not say what is lost:\n%s", out)
				}
			}
		}
		if now := r.shell(t, block{"set-up", columns}); now != was {
			t.Errorf("before the migration\n%s\nand after the return\n%s", was, now)
		}
	})
	t.Run("by the controller", func(t *testing.T) {
		t.Parallel()
		r := startOperation(t, bin)
		for _, b := range runbook(t) {
			if b.section == byHand || b.section == before {
				continue
			}
			if strings.HasPrefix(b.section, "3.") && r.gateways == nil {
				r.deploy(t)
			}
			if strings.Contains(b.text, "deploy/empty.sql") { // the gateways are stopped for it
				r.stop(t)
			}
			// Switch on again only after the rollout has seen that the feature is off:
			// it does not see a change that is undone between two evaluations.
			off, on, takenBack := strings.Cut(b.text, "automationctl on\n")
			// While a gateway runs the clean-up, the command asks to try again.
			const cleanup = "automationctl cleanup --yes"
			off = strings.ReplaceAll(off, cleanup, "until "+cleanup+"; do [ $? -eq 4 ] && sleep 1 || exit 1; done")
			out := r.shell(t, block{b.section, off})
			if takenBack {
				eventually(t, "the rollout is paused by the change by hand", func() bool {
					return strings.Contains(r.shell(t, block{b.section, "automationctl rollout status automation"}), "paused, by hand_edit")
				})
				r.shell(t, block{b.section, "automationctl on" + on})
			}
			switch {
			case strings.Contains(b.text, "> plan.json"):
				shortenPlan(t, filepath.Join(r.work, "plan.json"))
			case strings.Contains(b.text, "--plan plan.json"):
				eventually(t, "everybody is in, stage by stage", func() bool { return r.countEnabled(t) == 40 })
			case strings.Contains(b.text, "rollout resume"):
				eventually(t, "the controller has counted the last stage's requests", func() bool {
					return !strings.Contains(r.shell(t, block{"report", "automationctl report || true"}), "too few requests")
				})
				r.checkReport(t, `UPDATE automation_rollouts SET watched = 73 * 3600`)
			case takenBack:
				if !strings.Contains(out, "Automation is paused until about 18:00 UTC.") {
					t.Errorf("users do not see the notice:\n%s", out)
				}
				eventually(t, "everybody is back in", func() bool { return r.countEnabled(t) == 40 })
			}
		}
		r.checkNode(t)
		// After the dump was restored, everybody has the feature and the audit is there.
		back := r.shell(t, block{"after the return", `automationctl flags get automation; automationctl flags events automation; automationctl rollout status automation; cat review.md`})
		for _, want := range []string{"100 %", "rollout:automation", "paused, by hand_edit", "### Errors by cause"} {
			if !strings.Contains(back, want) {
				t.Errorf("after the return there is no %q in\n%s", want, back)
			}
		}
	})
}
