package metrics_test

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// A gateway hands the recorder to automation.New, attaches the module to it,
// and registers it where its own metrics are.
func ExampleRecorder() {
	recorder := metrics.New(metrics.Options{})
	options := automation.Options{Observer: recorder.Observer()} // for automation.New
	registry := prometheus.NewRegistry()
	registry.MustRegister(recorder)

	options.Observer.Chat(outcome.Outcome{Cause: outcome.None, Overhead: 3 * time.Millisecond}) // as the module does

	families, err := registry.Gather()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() > 0 {
				fmt.Println(f.GetName(), m.GetLabel()[1].GetValue(), m.GetCounter().GetValue())
			}
		}
	}
	// Output:
	// automation_chat_requests_total served 1
}
