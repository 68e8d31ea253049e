package report

import (
	"testing"
	"time"
)

func TestFormatDuration_ChoosesTheUnit(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                         "0 ms",
		1234567 * time.Nanosecond: "1.235 ms",
		250 * time.Millisecond:    "250 ms",
		30 * time.Second:          "30 s",
		90 * time.Minute:          "90 min",
		72*time.Hour - 1:          "71 hours 59 min",
		72 * time.Hour:            "72 hours",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) is %q, want %q", d, got, want)
		}
	}
}
