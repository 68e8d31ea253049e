package outcome_test

import (
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// An observer that counts only failures.
func ExampleOutcome_Result() {
	failures := map[outcome.Cause]int{}
	observe := func(o outcome.Outcome) {
		if o.Result() == outcome.Failed {
			failures[o.Cause]++
		}
	}
	observe(outcome.Outcome{Cause: outcome.None})
	observe(outcome.Outcome{Cause: outcome.Node, Code: outcome.CodeSessionUnavailable})
	observe(outcome.Outcome{Cause: outcome.Off, Code: outcome.SkipOptedOut, Skipped: true})
	fmt.Println(failures)
	// Output: map[node:1]
}
