package report_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

var update = flag.Bool("update", false, "write testdata/review.md")

func TestReport_WritesTheWeeklyReview(t *testing.T) {
	at := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	activity := []replica.Activity{
		{Kind: "api", Cause: "none", Requests: 10, LatencyUS: 40000, DatabaseUS: 10000},
		{Kind: "chat", Cause: "none", Requests: 90, Slow: 9, LatencyUS: 9_000_000, DatabaseUS: 90_000},
		{Kind: "chat", Cause: "client_left", Requests: 5},
		{Kind: "chat", Cause: "node", Requests: 5},
	}
	r := report.Report{
		Rollout: "automation", ByHand: true, State: rollout.StateRolledBack, Detail: "errors | <b>everywhere</b>", At: at, Verdict: report.VerdictNotMet,
		Criteria: []report.Criterion{{Name: "error_rate", Verdict: report.VerdictNotMet, Wanted: "below 1 %", Measured: "4.20 %, 42 of 1000"}},
		Steps:    []report.Step{{At: at.Add(-time.Hour), By: "sql:owner", Enabled: true, Percentage: 10 * flags.Percent, Listed: 3}, {At: at, By: "ann"}},
		TakenBack: &report.TakenBack{At: at, By: "ann", Detail: "Back at 18:00", Stage: "10 %, 3 users listed", Since: at.Add(-time.Hour),
			Evidence: rollout.Counts{Outcomes: 100, Failures: 5}, Activity: activity},
		Review: report.Review{
			From: at.Add(-7 * 24 * time.Hour), To: at, Activity: activity,
			Opens:  []report.Opens{{Purpose: "request", Opened: 20, Failed: 1}},
			Users:  report.Users{Active: 12, OptedIn: 3, OptedOut: 1},
			Unused: []report.Unused{{What: "opened and never used", Sessions: 2, Seconds: 7200}},
			Feedback: report.Feedback{Count: 2, Open: 1, Rated: 1, Rating: 4, Newest: []feedback.Entry{
				{Message: "*fine*,\nbut [slow](http://example.com)", Stage: "10 %", CreatedAt: sqldb.Time{Time: at}}}},
		},
	}
	const file = "testdata/review.md"
	got := r.Markdown()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); if the new text is right, run go test ./internal/report -update\n%s", file, diff)
	}
}
