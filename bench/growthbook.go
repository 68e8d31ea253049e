package main

import (
	"context"
	"encoding/json"
	"log/slog"

	growthbook "github.com/growthbook/growthbook-golang"
)

func openGrowthBook() (*opened, error) {
	type object = map[string]any
	half := object{"force": true, "coverage": 0.5, "hashAttribute": "id", "seed": rollout, "hashVersion": 2}
	inList := object{"force": true, "condition": object{"id": object{"$in": list()}}}
	features, err := json.Marshal(object{
		rollout:  object{"defaultValue": false, "rules": []object{half}},
		listed:   object{"defaultValue": false, "rules": []object{inList, half}},
		disabled: object{"defaultValue": false},
	})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	client, err := growthbook.NewClient(ctx, growthbook.WithJsonFeatures(string(features)), growthbook.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	return &opened{
		evaluator: func(flag, user string) func() bool {
			return func() bool {
				child, err := client.WithAttributes(growthbook.Attributes{"id": user})
				return err == nil && child.EvalFeature(ctx, flag).On
			}
		},
		close: func() { _ = client.Close() },
	}, nil
}
