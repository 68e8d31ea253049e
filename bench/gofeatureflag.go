package main

import (
	"context"
	"encoding/json"
	"time"

	ffclient "github.com/thomaspoignant/go-feature-flag"
	"github.com/thomaspoignant/go-feature-flag/modules/core/ffcontext"
)

// inMemory is a Retriever that returns its own bytes.
type inMemory []byte

func (r inMemory) Retrieve(context.Context) ([]byte, error) { return r, nil }

func openGoFeatureFlag() (*opened, error) {
	type object = map[string]any
	half := object{"percentage": object{"yes": 50, "no": 50}}
	users, err := json.Marshal(list())
	if err != nil {
		return nil, err
	}
	flag := func(fields object) object {
		fields["variations"] = object{"yes": true, "no": false}
		fields["defaultRule"] = half
		return fields
	}
	text, err := json.Marshal(object{
		rollout:  flag(object{}),
		listed:   flag(object{"targeting": []object{{"query": `key in ` + string(users), "variation": "yes"}}}),
		disabled: flag(object{"disable": true}),
	})
	if err != nil {
		return nil, err
	}
	client, err := ffclient.New(ffclient.Config{Retriever: inMemory(text), FileFormat: "json", PollingInterval: time.Hour})
	if err != nil {
		return nil, err
	}
	return &opened{
		evaluator: func(flag, user string) func() bool {
			return func() bool {
				on, err := client.BoolVariation(flag, ffcontext.NewEvaluationContext(user), false)
				return on && err == nil
			}
		},
		close: client.Close,
	}, nil
}
