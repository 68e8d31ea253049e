package flags_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
)

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db := sqlx.MustOpen("sqlite", "file:example?mode=memory&cache=shared")
	defer func() { _ = db.Close() }()
	if _, err := schema.Migrate(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	watcher := flags.NewWatcher(flags.NewStore(db, flags.StoreOptions{}), flags.Options{})
	// A gateway runs watcher.Run(ctx) next to its server. This example refreshes
	// once after each change instead.
	if err := watcher.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(watcher.Decide("automation", "7").Reason)

	db.MustExecContext(ctx, `UPDATE feature_flags SET enabled_user_ids = '[7, 8]' WHERE feature_name = 'automation'`)
	if err := watcher.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(watcher.Decide("automation", "7").Reason)
	// Output:
	// outside_percentage
	// user_enabled
}

func ExampleStore_Update() {
	ctx := context.Background()
	db := sqlx.MustOpen("sqlite", "file:update?mode=memory&cache=shared")
	defer func() { _ = db.Close() }()
	if _, err := schema.Migrate(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	store := flags.NewStore(db, flags.StoreOptions{})
	share := 10 * flags.Percent
	flag, err := store.Update(ctx, "automation", flags.Change{Percentage: &share}, "ops@example.com", 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%v %% at version %d by %s\n", flag.Percentage, flag.Version, flag.UpdatedBy)
	_, err = store.Update(ctx, "automation", flags.Change{Percentage: &share}, "ops@example.com", 1)
	fmt.Println(err)
	// Output:
	// 10 % at version 2 by ops@example.com
	// flags: update("automation"): flags.update: the flag has been changed meanwhile: it is at version 2, not 1
}

func ExampleEvaluate() {
	flag := &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 10 * flags.Percent}
	for _, user := range []string{"7", "0", "1"} {
		d := flags.Evaluate(flag, user)
		fmt.Println(user, d.On, d.Reason, d.Bucket)
	}
	// Output:
	// 7 true user_enabled -1
	// 0 true in_percentage 277
	// 1 false outside_percentage 8199
}

func ExampleExplain() {
	flag := &flags.Flag{Name: "automation", Enabled: true, Percentage: 10 * flags.Percent, Version: 3, UpdatedBy: "ops"}
	for _, step := range flags.Explain(flag, "1", true).Steps {
		fmt.Printf("%-18s  %s\n", step.Rule, step.Finding)
	}
	// Output:
	// master switch       on in this process
	// flag                version 3, changed by ops at 0001-01-01T00:00:00Z
	// enabled             true
	// disabled_user_ids   the user is not among 0
	// enabled_user_ids    the user is not among 0
	// rollout_percentage  bucket 8199 of seed "automation" is not below 1000, which is 10 %
}

// oneFlag is a Decider of one flag, as a gateway's own tests may use.
type oneFlag struct{ flag *flags.Flag }

func (o oneFlag) Decide(_, user string) flags.Decision { return flags.Evaluate(o.flag, user) }

func ExampleMiddleware() {
	beta := oneFlag{&flags.Flag{Name: "beta", Enabled: true, EnabledUserIDs: flags.NewIDs("7")}}
	userOf := func(r *http.Request) (string, bool) {
		id := r.URL.Query().Get("user") // a gateway takes the user from its authentication
		return id, id != ""
	}
	handler := flags.Middleware(beta, "beta", userOf, nil)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		d, _ := flags.FromContext(r.Context(), "beta")
		fmt.Println("has the flag:", d.Reason)
	}))
	for _, url := range []string{"/?user=7", "/?user=8", "/"} {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequestWithContext(context.Background(), http.MethodGet, url, nil))
		fmt.Println(response.Code)
	}
	// Output:
	// has the flag: user_enabled
	// 200
	// 404
	// 404
}
