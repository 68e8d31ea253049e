package main

import (
	"context"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// rows is a Source in memory.
type rows []*flags.Flag

func (r rows) Load(context.Context, map[string]flags.RowVersion) (flags.LoadResult, error) {
	l := flags.LoadResult{Versions: map[string]flags.RowVersion{}, Flags: r}
	for _, f := range r {
		l.Versions[f.Name] = "1"
	}
	return l, nil
}

func openOurs() (*opened, error) {
	half := 50 * flags.Percent
	w := flags.NewWatcher(rows{
		{Name: rollout, Enabled: true, Percentage: half},
		{Name: listed, Enabled: true, EnabledUserIDs: flags.NewIDs(list()...), Percentage: half},
		{Name: disabled, Percentage: half},
	}, flags.Options{})
	return &opened{
		evaluator: func(flag, user string) func() bool {
			return func() bool { return w.Decide(flag, user).On }
		},
		close: func() {},
	}, w.Refresh(context.Background())
}
