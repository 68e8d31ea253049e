package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	configcat "github.com/configcat/go-sdk/v9"
)

func openConfigCat() (*opened, error) {
	type object = map[string]any
	no, yes := object{"b": false}, object{"b": true}
	half := []object{{"p": 50, "v": yes}, {"p": 50, "v": no}}
	flag := func(fields object) object {
		f := object{"t": 0, "v": no}
		for key, value := range fields {
			f[key] = value
		}
		return f
	}
	inList := object{
		"c": []object{{"u": object{"a": "Identifier", "c": configcat.OpOneOf, "l": list()}}},
		"s": object{"v": yes},
	}
	text, err := json.Marshal(object{"p": object{"s": "salt"}, "f": object{
		rollout:  flag(object{"p": half}),
		listed:   flag(object{"r": []object{inList}, "p": half}),
		disabled: flag(nil), // ConfigCat has no switch: a flag without rules is off
	}})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "configcat")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	client := configcat.NewCustomClient(configcat.Config{
		SDKKey:        "bench",
		FlagOverrides: &configcat.FlagOverrides{FilePath: path, Behavior: configcat.LocalOnly},
		Logger:        configcat.DefaultLogger(),
		LogLevel:      configcat.LogLevelError,
	})
	return &opened{
		evaluator: func(flag, user string) func() bool {
			return func() bool {
				return client.GetBoolValue(flag, false, &configcat.UserData{Identifier: user})
			}
		},
		close: func() { client.Close(); _ = os.RemoveAll(dir) },
	}, nil
}
