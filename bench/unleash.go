package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/Unleash/unleash-client-go/v4"
	"github.com/Unleash/unleash-client-go/v4/api"
	unleashcontext "github.com/Unleash/unleash-client-go/v4/context"
)

// fixedAnswer is a transport that answers every request with the same body.
type fixedAnswer string

func (a fixedAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(a))), Request: r}, nil
}

func openUnleash() (*opened, error) {
	half := api.Strategy{Name: "flexibleRollout", Parameters: api.ParameterMap{"rollout": "50", "stickiness": "userId", "groupId": rollout}}
	inList := api.Strategy{
		Name:        "default",
		Constraints: []api.Constraint{{ContextName: "userId", Operator: api.OperatorIn, Values: list()}},
	}
	features, err := json.Marshal(api.FeatureResponse{Features: []api.Feature{
		{Name: rollout, Enabled: true, Strategies: []api.Strategy{half}},
		{Name: listed, Enabled: true, Strategies: []api.Strategy{inList, half}},
		{Name: disabled, Strategies: []api.Strategy{half}},
	}})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "unleash") // for the backup that the client writes
	if err != nil {
		return nil, err
	}
	client, err := unleash.NewClient(
		unleash.WithAppName("bench"), unleash.WithUrl("http://unleash.invalid/api"), unleash.WithHttpClient(&http.Client{Transport: fixedAnswer(features)}),
		unleash.WithBackupPath(dir), unleash.WithDisableMetrics(true), unleash.WithListener(&unleash.NoopListener{}),
	)
	if err != nil {
		return nil, err
	}
	client.WaitForReady()
	return &opened{
		evaluator: func(flag, user string) func() bool {
			return func() bool {
				return client.IsEnabled(flag, unleash.WithContext(unleashcontext.Context{UserId: user}))
			}
		},
		close: func() { _ = client.Close(); _ = os.RemoveAll(dir) },
	}, nil
}
