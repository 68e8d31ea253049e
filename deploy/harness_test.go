package deploy_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
)

func TestMain(m *testing.M) {
	// Most tests wait rather than compute, so more run at once than there are cores.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const (
	rulesFile     = "prometheus/automation.rules.yml"
	dashboardFile = "grafana/automation.json"
)

// findTool returns the path of a program of Prometheus. If it is not installed, the
// test is skipped, or fails where AUTOMATION_TEST_REQUIRE_POSTGRES is 1.
func findTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("AUTOMATION_TEST_REQUIRE_POSTGRES") == "1" {
			t.Fatalf("%s is not installed; Debian has it in the package prometheus", name)
		}
		t.Skipf("%s is not installed, so this is not tested; Debian has it in the package prometheus", name)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path) //nolint:gosec // a file of this repository
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exported returns the labels of the metrics that the code exports, by name.
func exported() map[string][]string {
	descs := make(chan *prometheus.Desc, 1000)
	metrics.New(metrics.Options{}).Describe(descs)
	close(descs)
	pattern := regexp.MustCompile(`fqName: "([^"]*)".*variableLabels: \{([^}]*)\}`)
	names := map[string][]string{}
	for d := range descs {
		m := pattern.FindStringSubmatch(d.String())
		names[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
	}
	return names
}

// use is one metric in a query, with the labels that the query names.
type use struct {
	name   string
	labels []string
}

var (
	metricName  = regexp.MustCompile(`(?:^|[^:a-z0-9_])(automation_[a-z0-9_]+)(\{[^}]*\})?`)
	matcherName = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
)

// uses returns the metrics in a text with queries.
func uses(text string) []use {
	var list []use
	for _, m := range metricName.FindAllStringSubmatch(text, -1) {
		u := use{name: m[1]}
		for _, l := range matcherName.FindAllStringSubmatch(m[2], -1) {
			u.labels = append(u.labels, l[1])
		}
		list = append(list, u)
	}
	return list
}

// base returns the known metric that a series belongs to, or "" if there is none.
func base(name string, known map[string][]string) string {
	if _, ok := known[name]; ok {
		return name
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if b, ok := strings.CutSuffix(name, suffix); ok {
			if _, ok := known[b]; ok {
				return b
			}
		}
	}
	return ""
}

// dashboard is the part of Grafana's model that the tests read.
type dashboard struct {
	Annotations struct {
		List []struct {
			Name, Expr string
			Enable     bool
			Datasource struct{ UID string }
		}
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Title       string
	Description string
	Type        string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr string }
	Datasource  struct{ UID string }
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries returns the dashboard's queries, as Grafana sends them to Prometheus.
func (d dashboard) queries() []string {
	var list []string
	for _, a := range d.Annotations.List {
		list = append(list, strings.ReplaceAll(a.Expr, "$job", ".*"))
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			list = append(list, strings.NewReplacer("$__rate_interval", "5m", "$job", ".*").Replace(q.Expr))
		}
	}
	return list
}

// queried returns the metrics that the rules and the dashboard use.
func queried(t *testing.T) []use {
	t.Helper()
	return append(uses(expressions(read(t, rulesFile))), uses(strings.Join(readDashboard(t).queries(), "\n"))...)
}

// expressions returns rules without their comments and annotations.
func expressions(rules string) string {
	var kept []string
	for line := range strings.Lines(rules) {
		trimmed := strings.TrimSpace(line)
		if !strings.HasPrefix(trimmed, "#") && !strings.HasPrefix(trimmed, "summary:") && !strings.HasPrefix(trimmed, "runbook_url:") && !strings.HasPrefix(trimmed, "- name:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
