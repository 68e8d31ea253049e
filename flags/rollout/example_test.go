package rollout_test

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

// A rollout is started, and what becomes of its requests is recorded. Running
// gateways roll it back when too many fail for two minutes.
func Example() {
	ctx := context.Background()
	db := sqlx.MustOpen("sqlite", "file:rollout?mode=memory&cache=shared")
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if _, err := schema.Migrate(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	c, err := rollout.New(db, rollout.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	store := c.Store()
	if _, err := store.Create(ctx, "automation", rollout.DefaultPlan(), "ops@example.com"); err != nil {
		fmt.Println(err)
		return
	}
	for _, action := range []rollout.Action{rollout.ActionStart, rollout.ActionSkip} {
		if _, err := store.Execute(ctx, "automation", rollout.Command{Action: action, Actor: "ops@example.com"}); err != nil {
			fmt.Println(err)
			return
		}
	}
	// A gateway runs c.Run(ctx) next to its server; here single passes do.
	recorder := c.Recorder("automation")
	show := func() {
		if err := c.Tick(ctx); err != nil {
			fmt.Println(err)
		}
		s, err := store.Get(ctx, "automation")
		if err != nil {
			fmt.Println(err)
		}
		fmt.Printf("%s at %v %%, %d of %d failed, waits for %s\n", s.State, s.Percentage, s.Evidence.Exposed.Failures, s.Evidence.Exposed.Outcomes, s.Waiting)
	}
	show()
	for i := range 50 {
		outcome := rollout.OutcomeSuccess
		if i%5 < 3 {
			outcome = rollout.OutcomeFailure
		}
		recorder.Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: outcome, UserID: "user-" + strconv.Itoa(i),
			Latency: 900 * time.Millisecond, DatabaseTime: 2 * time.Millisecond})
	}
	show()
	// Output:
	// running at 10 %, 0 of 0 failed, waits for time
	// running at 10 %, 30 of 50 failed, waits for time
}

func ExampleParsePlan() {
	_, err := rollout.ParsePlan([]byte(`{
		"stages": [
			{"name": "internal", "users": [1, 2, 3], "hold": "24h", "approval": true},
			{"name": "half", "percentage": 50, "hold": "a day"}
		]
	}`))
	fmt.Println(err)
	_, err = rollout.ParsePlan([]byte(`{
		"stages": [
			{"name": "half", "percentage": 50, "hold": "24h"},
			{"name": "all", "percentage": 10, "min_samples": 100}
		]
	}`))
	fmt.Println(err)
	// Output:
	// stages[1].hold: "a day" is no duration such as "24h" or "90s" (line 4, column 47)
	// stages[1].percentage: 10 is less than the stage before has, 50: a rollout only adds users
}

// A host's handler decides by the flag and records what became of the request.
func ExampleArmOf() {
	f := &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), DisabledUserIDs: flags.NewIDs("8")}
	for _, user := range []string{"7", "8", "9"} {
		arm, ok := rollout.ArmOf(flags.Evaluate(f, user))
		if !ok {
			fmt.Println(user, "is not recorded")
			continue
		}
		fmt.Println(user, "is recorded as", arm)
	}
	// Output:
	// 7 is recorded as exposed
	// 8 is not recorded
	// 9 is recorded as control
}
