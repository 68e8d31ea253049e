package automation

import (
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

func TestRecentFaults_CountOnlyFaultsOfTheReplica(t *testing.T) {
	start := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	many := func(n int, o outcome.Outcome) []outcome.Outcome {
		var list []outcome.Outcome
		for range n {
			list = append(list, o)
		}
		return list
	}
	for name, tt := range map[string]struct {
		ended []outcome.Outcome
		after time.Duration // how long after the requests the component is read
		ok    bool
	}{
		"nothing has happened":                        {nil, 0, true},
		"fewer failures than the minimum":             {many(4, outcome.Outcome{Cause: outcome.Internal}), 0, true},
		"internal errors":                             {many(5, outcome.Outcome{Cause: outcome.Internal}), 0, false},
		"the database is unreachable":                 {many(5, outcome.Outcome{Cause: outcome.Database}), 0, false},
		"internal errors a minute ago":                {many(5, outcome.Outcome{Cause: outcome.Internal}), 61 * time.Second, false},
		"internal errors two minutes ago":             {many(5, outcome.Outcome{Cause: outcome.Internal}), 2 * time.Minute, true},
		"more successes than errors":                  {append(many(5, outcome.Outcome{Cause: outcome.Internal}), many(6, outcome.Outcome{Cause: outcome.None})...), 0, true},
		"errors of providers":                         {many(50, outcome.Outcome{Cause: outcome.Provider}), 0, true},
		"users at their limits":                       {many(50, outcome.Outcome{Cause: outcome.Limit}), 0, true},
		"clients that send invalid requests or leave": {append(many(50, outcome.Outcome{Cause: outcome.Client}), many(50, outcome.Outcome{Cause: outcome.ClientLeft})...), 0, true},
		"requests that automation did not act on":     {many(50, outcome.Outcome{Cause: outcome.Host, Skipped: true}), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := recentFaults{began: start}
			for _, o := range tt.ended {
				r.add(start, o)
			}
			if got := r.component(start.Add(tt.after)); got.OK != tt.ok || got.OK != (got.Detail == "") {
				t.Errorf("component %+v, want OK %v, and a detail unless OK", got, tt.ok)
			}
		})
	}
}
