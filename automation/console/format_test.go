package console

import (
	"strings"
	"testing"
	"time"
)

func TestFormatDuration_WritesTheTwoLargestUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "0 s",
		59 * time.Second:              "59 s",
		time.Minute:                   "1 min",
		90 * time.Second:              "1 min 30 s",
		time.Hour + 30*time.Second:    "1 h",
		24 * time.Hour:                "24 h",
		25*time.Hour + 90*time.Minute: "26 h 30 min",
		72 * time.Hour:                "3 d",
		75*time.Hour + 59*time.Minute: "3 d 3 h",
		1499 * time.Millisecond:       "1 s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestErrorChart_BeginsWithTheFirstPoint(t *testing.T) {
	if chart := errorChart(nil, .05); chart != "" {
		t.Errorf("of nothing: %s", chart)
	}
	one := []point{{At: time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC), Exposed: counts{Outcomes: 10, Failures: 1}}}
	chart := string(errorChart(one, .05))
	if !strings.Contains(chart, "02:59") || !strings.Contains(chart, `class="exposed" d="M`) || strings.Contains(chart, "NaN") || strings.Contains(chart, "Inf") {
		t.Errorf("of one point: %s", chart)
	}
}
