package automation

import (
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

func TestRecentFaults_TellAReplicaThatFailsFromItsUsers(t *testing.T) {
	begin := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	many := func(n int, o outcome.Outcome) []outcome.Outcome {
		var list []outcome.Outcome
		for range n {
			list = append(list, o)
		}
		return list
	}
	for name, tt := range map[string]struct {
		ended []outcome.Outcome
		after time.Duration // until it is asked
		ok    bool
	}{
		"nothing has happened":            {nil, 0, true},
		"few failures":                    {many(4, outcome.Outcome{Cause: outcome.Internal}), 0, true},
		"faults of its own":               {many(5, outcome.Outcome{Cause: outcome.Internal}), 0, false},
		"no database from here":           {many(5, outcome.Outcome{Cause: outcome.Database}), 0, false},
		"a minute ago":                    {many(5, outcome.Outcome{Cause: outcome.Internal}), 61 * time.Second, false},
		"long ago":                        {many(5, outcome.Outcome{Cause: outcome.Internal}), 2 * time.Minute, true},
		"among many good ones":            {append(many(5, outcome.Outcome{Cause: outcome.Internal}), many(6, outcome.Outcome{Cause: outcome.None})...), 0, true},
		"providers that fail everywhere":  {many(50, outcome.Outcome{Cause: outcome.Provider}), 0, true},
		"users at their limits":           {many(50, outcome.Outcome{Cause: outcome.Limit}), 0, true},
		"clients that are wrong or leave": {append(many(50, outcome.Outcome{Cause: outcome.Client}), many(50, outcome.Outcome{Cause: outcome.ClientLeft})...), 0, true},
		"requests that were not touched":  {many(50, outcome.Outcome{Cause: outcome.Host, Skipped: true}), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := recentFaults{began: begin}
			for _, o := range tt.ended {
				r.add(begin, o)
			}
			if got := r.component(begin.Add(tt.after)); got.OK != tt.ok || got.OK != (got.Detail == "") {
				t.Errorf("%+v, want OK %v", got, tt.ok)
			}
		})
	}
}
