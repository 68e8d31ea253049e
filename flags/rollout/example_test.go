package rollout_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

// A stage that fails six times in ten is taken back.
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
	if _, err := c.Create(ctx, "automation", rollout.DefaultPlan(), "ops@example.com"); err != nil {
		fmt.Println(err)
		return
	}
	for _, action := range []rollout.Action{rollout.Start, rollout.Skip} {
		if _, err := c.Do(ctx, "automation", rollout.Order{Action: action, Actor: "ops@example.com"}); err != nil {
			fmt.Println(err)
			return
		}
	}
	// A gateway runs c.Run(ctx) beside its server; here single passes do.
	recorder := c.Recorder("automation")
	show := func() {
		if err := c.Tick(ctx); err != nil {
			fmt.Println(err)
		}
		s, err := c.Get(ctx, "automation")
		if err != nil {
			fmt.Println(err)
		}
		fmt.Printf("%s at %v %%, %d of %d failed\n", s.State, s.Percentage, s.Evidence.Exposed.Failures, s.Evidence.Exposed.Outcomes)
	}
	show()
	for i := range 50 {
		outcome := rollout.Success
		if i%5 < 3 {
			outcome = rollout.Failure
		}
		recorder.Record(rollout.Exposed, outcome, "user-"+strconv.Itoa(i), 900*time.Millisecond, 2*time.Millisecond)
	}
	db.MustExecContext(ctx, `UPDATE automation_rollouts SET next_at = looked_at`) // two seconds later
	show()
	// Output:
	// running at 10 %, 0 of 0 failed
	// rolled_back at 10 %, 30 of 50 failed
}

func ExampleParsePlan() {
	_, err := rollout.ParsePlan([]byte(`{
		"stages": [
			{"name": "internal", "users": [1, 2, 3], "hold": "24h", "approval": true},
			{"name": "half", "percentage": 50, "hold": "a day"},
			{"name": "all", "percentage": 10, "min_samples": 100}
		],
		"polcy": "wilson"
	}`))
	fmt.Println(err)
	// Output:
	// polcy: there is no such field
	// stages[1].hold: "a day" is no duration such as "24h" or "90s"
}

// Where a host's handler tells how requests ended.
func ExampleRecorder_Record() {
	var (
		decider  flags.Decider // c.Decider(watcher)
		recorder *rollout.Recorder
		serve    func(*http.Request, bool) (status int, ours bool)
	)
	_ = func(r *http.Request, user string) {
		begun := time.Now() //nolint:forbidigo // the host's own clock
		d := decider.Decide("automation", user)
		status, ours := serve(r, d.On)
		outcome := rollout.Success
		switch {
		case status >= 500 && ours:
			outcome = rollout.Failure // in the control arm: the provider's errors
		case status >= 500:
			outcome = rollout.HostError
		case status >= 400:
			outcome = rollout.CallerError
		}
		if arm, ok := rollout.ArmOf(d); ok {
			recorder.Record(arm, outcome, user, time.Since(begun), 0) //nolint:forbidigo // the host's own clock
		}
	}
}

// What a receiver of webhooks does first.
func ExampleVerifyWebhook() {
	h := http.Header{"Webhook-Id": {"automation-7"}, "Webhook-Timestamp": {"1795000000"}, "Webhook-Signature": {"v1,c29tZXRoaW5nIGVsc2U="}}
	fmt.Println(rollout.VerifyWebhook("0123456789abcdef", h, []byte(`{}`), time.Unix(1795000000, 0)))
	// Output:
	// rollout: webhook: no signature fits: not acceptable
}
