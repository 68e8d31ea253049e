package metrics_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
)

// row is a line of a table in docs/metrics.md: name, type, labels, meaning, normal range.
var row = regexp.MustCompile("(?m)^\\| `(automation_[a-z0-9_]+)` \\| (\\w+) \\| ([^|]*) \\| ([^|]*) \\| ([^|]+) \\|$")

func TestDocs_DescribeEveryMetric(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		if strings.TrimSpace(m[5]) == "" {
			t.Errorf("%s has no normal range", m[1])
		}
		documented[m[1]] = fmt.Sprintf("%s {%s} %s", m[2], strings.ReplaceAll(strings.TrimSpace(m[3]), "`", ""), m[4])
	}
	r := newObserved(metrics.Options{})
	r.Attach(newModule(t, 1))
	exported := map[string]string{}
	for name, f := range gather(t, r) {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		exported[name] = fmt.Sprintf("%s {%s} %s", strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	if diff := cmp.Diff(exported, documented); diff != "" {
		t.Errorf("docs/metrics.md differs from the code (- code, + docs):\n%s", diff)
	}
}
