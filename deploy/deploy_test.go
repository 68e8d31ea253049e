package deploy_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
)

// addedLabels are the labels that Prometheus adds, and the label of histogram
// buckets.
var addedLabels = []string{"job", "instance", "le"}

func TestQueries_UseExportedMetricsOnly(t *testing.T) {
	known := exported()
	used := map[string]bool{}
	for _, u := range queried(t) {
		name := base(u.name, known)
		if name == "" {
			t.Errorf("%s is queried, but the code exports no such metric", u.name)
			continue
		}
		used[name] = true
		for _, l := range u.labels {
			if !slices.Contains(known[name], l) && !slices.Contains(addedLabels, l) {
				t.Errorf("%s is queried by the label %s, but has %v", u.name, l, known[name])
			}
		}
	}
	for name := range known {
		if !used[name] {
			t.Errorf("neither an alert nor the dashboard uses the metric %s", name)
		}
	}
}

func TestAlerts_AreComplete(t *testing.T) {
	rules := read(t, rulesFile)
	tests := read(t, "prometheus/automation.test.yml") + read(t, "prometheus/automation.days.test.yml") + read(t, "prometheus/automation.critical.test.yml")
	alerts := regexp.MustCompile(`(?m)^      - alert: (\w+)\n(?:(?:        .*)?\n)*`).FindAllStringSubmatch(rules+"\n", -1)
	if len(alerts) != strings.Count(rules, "- alert:") || len(alerts) == 0 {
		t.Fatalf("this test can read %d of the %d alerts, want all", len(alerts), strings.Count(rules, "- alert:"))
	}
	runbook := read(t, "../docs/runbook.md")
	for _, a := range alerts {
		text, name := a[0], a[1]
		for _, part := range []string{"labels: {severity: critical}|labels: {severity: warning}", "          summary: .{20,}", "runbook_url: .*/docs/runbook\\.md#" + strings.ToLower(name) + "\n"} {
			if !regexp.MustCompile(part).MatchString(text) {
				t.Errorf("the alert %s has nothing that matches %s", name, part)
			}
		}
		if !regexp.MustCompile(`(?mi)^#+ ` + name + `$`).MatchString(runbook) {
			t.Errorf("docs/runbook.md has no heading %s; the alert links to it", name)
		}
		fires, silent := 0, 0
		for _, c := range regexp.MustCompile(`alertname="`+name+`",alertstate="firing"\}\)\n.*\n *exp_samples: (\[.*\])`).FindAllStringSubmatch(tests, -1) {
			if c[1] == "[]" {
				silent++
			} else {
				fires++
			}
		}
		if fires == 0 || silent == 0 {
			t.Errorf("%s: %d tests in which it fires and %d in which it does not, want both", name, fires, silent)
		}
	}
}

func TestAlerts_PassPromtool(t *testing.T) {
	promtool := findTool(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "automation.rules.yml"},
		{"test", "rules", "automation.test.yml"},
		{"test", "rules", "automation.critical.test.yml"},
		{"test", "rules", "automation.days.test.yml"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			if args[0] == "test" && testing.Short() {
				t.Skip("evaluates hours and days of samples")
			}
			t.Parallel()
			c := exec.CommandContext(t.Context(), promtool, args...) //nolint:gosec // the path of promtool
			c.Dir = "prometheus"
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}

func TestDashboard_QueriesParse(t *testing.T) {
	promtool := findTool(t, "promtool")
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, q := range readDashboard(t).queries() {
		fmt.Fprintf(&rules, "      - record: dashboard:query%d\n        expr: %q\n", i, q)
	}
	path := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", path).CombinedOutput(); err != nil { //nolint:gosec // as above
		t.Errorf("promtool does not accept the dashboard's queries: %v\n%s", err, out)
	}
}

func TestDashboard_IsComplete(t *testing.T) {
	d := readDashboard(t)
	if l := d.Templating.List; len(l) == 0 || l[0].Name != "datasource" || l[0].Type != "datasource" || string(l[0].Query) != `"prometheus"` {
		t.Errorf("the first variable does not choose the data source: %+v", d.Templating.List)
	}
	var rows []string
	ids := map[int]bool{}
	titleAt := map[[2]int]string{} // the panel in each cell of the grid
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if titleAt[cell] != "" || cell[0] >= 24 {
					t.Errorf("the panel %s overlaps %q or exceeds the 24 columns, in cell %v", p.Title, titleAt[cell], cell)
				}
				titleAt[cell] = p.Title
			}
		}
		if p.Type != "row" && !strings.Contains(p.Description, "Normal: ") {
			t.Errorf("the description of %s has no normal range: %q", p.Title, p.Description)
		}
		switch {
		case p.Type == "row":
			rows = append(rows, p.Title)
		case p.Datasource.UID != "${datasource}" || len(p.Targets) == 0:
			t.Errorf("%s has no query, or does not use the chosen data source", p.Title)
		}
	}
	annotated := map[string]bool{}
	for _, a := range d.Annotations.List {
		annotated[a.Name] = a.Enable && a.Datasource.UID == "${datasource}"
	}
	if want := (map[string]bool{"Changes of flags": true, "Rollout steps": true, "Rollout states": true}); !maps.Equal(want, annotated) {
		t.Errorf("annotations %v, want %v", annotated, want)
	}
	if got, want := strings.Join(rows, ", "), "Overview, Performance, Usage, Errors, Rollout"; got != want {
		t.Errorf("rows are %s, want %s", got, want)
	}
}

// If a series first appears with an event, increase() does not count that event, so
// an alert would miss it. Therefore the series have to exist from the start.
func TestAlerts_IncreaseOnlySeriesThatExistFromTheStart(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.New(metrics.Options{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	increases := regexp.MustCompile(`(?:increase|rate)\((automation_[a-z_]+)(?:\{([^}]*)\})?\[`).FindAllStringSubmatch(read(t, rulesFile), -1)
	if len(increases) < 10 {
		t.Fatalf("%d uses of increase and rate in the rules, want at least 10: does the pattern still match?", len(increases))
	}
	matcher := regexp.MustCompile(`([a-z]+)(=~|=)"([^"]*)"`)
	for _, inc := range increases {
		name := inc[1]
		for _, suffix := range []string{"_bucket", "_count"} {
			if base := strings.TrimSuffix(name, suffix); slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == base }) {
				name = base
			}
		}
		exists := false
		for _, f := range families {
			for _, m := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				matches := f.GetName() == name
				for _, c := range matcher.FindAllStringSubmatch(inc[2], -1) {
					if c[1] != "le" {
						matches = matches && regexp.MustCompile("^(?:"+c[3]+")$").MatchString(labels[c[1]])
					}
				}
				exists = exists || matches
			}
		}
		if !exists && name != "automation_db_pool_wait_seconds_total" { // read from the pool at each scrape
			t.Errorf("no series that matches %s…] exists before its first event", inc[0])
		}
	}
}
