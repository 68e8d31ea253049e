package openfeature_test

import (
	"context"
	"fmt"

	of "github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/isolated"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/openfeature"
)

func Example() {
	ctx := context.Background()
	// A gateway's source is flags.NewStore(db, flags.StoreOptions{}), and it runs
	// watcher.Run next to its server.
	source := tableOf(&flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 10 * flags.Percent, Version: 3})
	watcher := flags.NewWatcher(source, flags.Options{})
	if err := watcher.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}

	api := isolated.NewAPI() // the functions of package openfeature do the same for the whole process
	defer func() { _ = api.Shutdown(ctx) }()
	if err := api.SetProviderAndWait(ctx, openfeature.New(watcher.View)); err != nil {
		fmt.Println(err)
		return
	}
	client := api.NewClient()
	for _, user := range []string{"7", "0", "1", ""} {
		d, _ := client.BooleanValueDetails(ctx, "automation", false, of.NewEvaluationContext(user, nil))
		fmt.Printf("%q: %t, reason %s\n", user, d.Value, d.Reason)
	}
	// Output:
	// "7": true, reason TARGETING_MATCH
	// "0": true, reason SPLIT
	// "1": false, reason SPLIT
	// "": false, reason ERROR
}
