package rollout_test

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

// Start a rollout and record how requests end. Running gateways roll it back when
// too many requests fail for two minutes.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db := sqlx.MustOpen("sqlite", "file:rollout?mode=memory&cache=shared")
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if _, err := schema.Migrate(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	c, err := rollout.New(db, rollout.Options{Interval: 10 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Start(ctx, "automation", nil, "ops@example.com"); err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Execute(ctx, "automation", "skip", "ops@example.com"); err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()

	recorder := c.Recorder("automation")
	for user := 0; ; user++ {
		recorder.Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeSuccess, UserID: strconv.Itoa(user), Latency: 900 * time.Millisecond})
		list, err := c.List(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		if s := list[0]; s.ExposedOutcomes > 0 {
			fmt.Printf("%s: %s at %v %%, waits for %s\n", s.Name, s.State, s.Percentage, s.Waiting)
			break
		}
	}
	cancel()
	<-done
	// Output:
	// automation: running at 10 %, waits for time
}

// Start refuses an invalid plan. Its error names the fields.
func ExampleController_Start() {
	ctx := context.Background()
	db := sqlx.MustOpen("sqlite", "file:start?mode=memory&cache=shared")
	defer func() { _ = db.Close() }()
	c, err := rollout.New(db, rollout.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Start(ctx, "automation", []byte(`{
		"stages": [
			{"name": "internal", "users": [1, 2, 3], "hold": "24h", "approval": true},
			{"name": "half", "percentage": 50, "hold": "a day"}
		]
	}`), "ops@example.com"))
	fmt.Println(c.Start(ctx, "automation", []byte(`{
		"stages": [
			{"name": "half", "percentage": 50, "hold": "24h"},
			{"name": "all", "percentage": 10, "min_samples": 100}
		]
	}`), "ops@example.com"))
	// Output:
	// rollout: start("automation"): stages[1].hold: "a day" is not a duration such as "24h" or "90s" (line 4, column 47)
	// rollout: start("automation"): stages[1].percentage: 10 is less than 50 in the stage before: a rollout only adds users
}

// A host's handler records a request in the arm that the flag's decision gives.
func ExampleArmOf() {
	f := &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), DisabledUserIDs: flags.NewIDs("8")}
	for _, user := range []string{"7", "8", "9"} {
		switch arm, ok := rollout.ArmOf(flags.Evaluate(f, user)); {
		case !ok:
			fmt.Println(user, "is not recorded")
		case arm == rollout.ArmExposed:
			fmt.Println(user, "is recorded as exposed")
		default:
			fmt.Println(user, "is recorded as control")
		}
	}
	// Output:
	// 7 is recorded as exposed
	// 8 is not recorded
	// 9 is recorded as control
}
