package deploy_test

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// Each line of the rollout plan names an existing test. Each line of the
// monitoring plan names an existing metric, alert and panel.
func TestRunbook_MapsThePlanToWhatExists(t *testing.T) {
	runbook := read(t, "../docs/runbook.md")
	_, table, _ := strings.Cut(runbook, "\n## The plan, line by line\n")
	plan, monitoring, found := strings.Cut(table, "\n### What to watch, from metric to panel\n")
	monitoring, _, _ = strings.Cut(monitoring, "\n## ")
	if !found {
		t.Fatal("docs/runbook.md does not have both tables: the plan line by line, and what to watch")
	}
	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // a file of ours
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := func(text string) (list [][]string) {
		for line := range strings.Lines(text) {
			if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | "); strings.HasPrefix(line, "| ") && len(cells) == 4 {
				list = append(list, cells)
			}
		}
		return list[1:]
	}
	lines := rows(plan)
	if len(lines) < 10 {
		t.Errorf("the table of the plan has %d lines, want at least 10", len(lines))
	}
	for _, cells := range lines {
		names := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(cells[3], -1)
		if len(names) == 0 {
			t.Errorf("the line %q of the plan names no test", cells[0])
		}
		for _, n := range names {
			if !tests[n[1]] {
				t.Errorf("the line %q of the plan names the test %s, which does not exist", cells[0], n[1])
			}
		}
		for _, anchor := range regexp.MustCompile(`\]\(#([a-z0-9-]+)\)`).FindAllStringSubmatch(cells[2], -1) {
			words := strings.ReplaceAll(anchor[1], "-", "[ .-]+")
			if !regexp.MustCompile(`(?mi)^#+ ` + words + `$`).MatchString(runbook) {
				t.Errorf("the line %q of the plan links to #%s, which is no heading of the runbook", cells[0], anchor[1])
			}
		}
	}
	known, rules, dashboard := exported(), read(t, rulesFile), readDashboard(t)
	for _, cells := range rows(monitoring) {
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
			if known[m[1]] == nil {
				t.Errorf("the line %q names the metric %s, which does not exist", cells[0], m[1])
			}
		}
		for _, a := range strings.Split(cells[2], ", ") {
			if !strings.Contains(rules, "- alert: "+a+"\n") {
				t.Errorf("the line %q names the alert %s, which does not exist", cells[0], a)
			}
		}
		for _, title := range strings.Split(strings.TrimSpace(cells[3]), ", ") {
			if !slices.ContainsFunc(dashboard.Panels, func(p panel) bool { return strings.HasPrefix(p.Title, title) }) {
				t.Errorf("the line %q names the panel %s, which the dashboard does not have", cells[0], title)
			}
		}
	}
}

// Each numbered step has an owner, the messages to users are there, and the first
// optimisation names existing variables.
func TestRunbook_SaysWhoDoesWhatAndWhatUsersAreTold(t *testing.T) {
	runbook := read(t, "../docs/runbook.md")
	steps := regexp.MustCompile(`(?m)^## (\d+\. .+)$`).FindAllStringSubmatch(runbook, -1)
	if len(steps) < 8 {
		t.Errorf("the runbook has %d numbered steps, want at least 8", len(steps))
	}
	for _, s := range steps {
		if !regexp.MustCompile(`(?m)^\| \[` + regexp.QuoteMeta(s[1]) + `\]\(#[a-z0-9-]+\)[^|]*\| [^|]+ \| [^|]+ \|$`).MatchString(runbook) {
			t.Errorf("the table of owners does not list the step %q", s[1])
		}
	}
	_, messages, _ := strings.Cut(runbook, "\n## Messages to users\n")
	messages, _, _ = strings.Cut(messages, "\n## ")
	for _, kind := range []string{"Launch", "Paused", "Back"} {
		if !strings.Contains(messages, "**"+kind+".** *") {
			t.Errorf("the runbook has no message to users %q", kind)
		}
	}
	_, advice, found := strings.Cut(runbook, "**First optimisation.**")
	advice, _, _ = strings.Cut(advice, "\n## ")
	variables := read(t, "../docs/environment.md")
	names := regexp.MustCompile("`([A-Z][A-Z_]+)`").FindAllStringSubmatch(advice, -1)
	if !found || len(names) < 4 {
		t.Errorf("the first optimisation names %d variables, want at least 4", len(names))
	}
	for _, n := range names {
		if !strings.Contains(variables, "`"+n[1]+"`") {
			t.Errorf("the first optimisation names %s, which docs/environment.md does not list", n[1])
		}
	}
}

// The runbook names the node's privacy settings, and routes that the node has.
func TestRunbook_NamesTheNodesSettingsAndRoutes(t *testing.T) {
	runbook := read(t, "../docs/runbook.md")
	for _, setting := range []string{"PROXY_STORE_CHAT_CONTEXT=false", "PROXY_FORWARD_CHAT_CONTEXT=false"} {
		if !strings.Contains(runbook, "`"+setting+"`") {
			t.Errorf("the runbook does not name the setting %s", setting)
		}
	}
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	routes := regexp.MustCompile("`(GET|POST) (/blockchain/stakes/\\w+)`").FindAllStringSubmatch(runbook, -1)
	if len(routes) < 2 {
		t.Errorf("the runbook names %d routes for the stake on hold, want at least 2", len(routes))
	}
	for _, r := range routes {
		if status := send(t, r[1], node.URL+r[2], "", ""); status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == 0 {
			t.Errorf("%s %s: the node answered with status %d, want a route that exists", r[1], r[2], status)
		}
	}
}
