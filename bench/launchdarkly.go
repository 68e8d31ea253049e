package main

import (
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"
	"github.com/launchdarkly/go-server-sdk-evaluation/v3/ldbuilders"
	ld "github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"
	"github.com/launchdarkly/go-server-sdk/v7/testhelpers/ldtestdata"
)

func openLaunchDarkly() (*opened, error) {
	const no, yes = 0, 1
	flag := func(name string, on bool) *ldbuilders.FlagBuilder {
		return ldbuilders.NewFlagBuilder(name).On(on).Salt(name).Version(1).
			Variations(ldvalue.Bool(false), ldvalue.Bool(true)).OffVariation(no).
			Fallthrough(ldbuilders.Rollout(ldbuilders.Bucket(yes, 50_000), ldbuilders.Bucket(no, 50_000)))
	}
	data := ldtestdata.DataSource().
		UsePreconfiguredFlag(flag(rollout, true).Build()).
		UsePreconfiguredFlag(flag(listed, true).AddTarget(yes, list()...).Build()).
		UsePreconfiguredFlag(flag(disabled, false).Build())
	client, err := ld.MakeCustomClient("bench", ld.Config{
		DataSource: data, Events: ldcomponents.NoEvents(), Logging: ldcomponents.NoLogging(), DiagnosticOptOut: true,
	}, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &opened{
		evaluator: func(flag, user string) func() bool {
			return func() bool {
				on, err := client.BoolVariation(flag, ldcontext.New(user), false)
				return on && err == nil
			}
		},
		close: func() { _ = client.Close() },
	}, nil
}
