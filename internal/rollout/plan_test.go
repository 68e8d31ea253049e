package rollout_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

func TestDefaultPlan_IsTheDeploymentPlan(t *testing.T) {
	p := rollout.DefaultPlan()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	type stage struct {
		Percentage flags.Percentage
		Hold       time.Duration
	}
	var got []stage
	for _, s := range p.Stages {
		got = append(got, stage{s.Percentage, s.Hold})
	}
	want := []stage{{0, 24 * time.Hour}, {1000, 24 * time.Hour}, {5000, 24 * time.Hour}, {10000, 72 * time.Hour}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the stages (-want +got):\n%s", diff)
	}
	if p.Limit != 5*flags.Percent || p.MinUsers != 5 || p.OnBreach != rollout.BreachRollback {
		t.Errorf("limit %v, min_users %d, on_breach %s; want 5, 5, rollback", p.Limit, p.MinUsers, p.OnBreach)
	}
}

func TestPlan_SurvivesItsJSON(t *testing.T) {
	p := rollout.DefaultPlan()
	p.Stages[0].Users = flags.NewIDs("7", "ü")
	p.Stages[1].Approval = true
	p.Stages[1].Percentage = 1250
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := rollout.ParsePlan(b)
	if err != nil {
		t.Fatalf("the JSON of a plan, %s, cannot be read: %v", b, err)
	}
	if diff := cmp.Diff(p, got); diff != "" {
		t.Errorf("the plan that was read back (-want +got):\n%s", diff)
	}
	const stage = `{"name":"10 %","percentage":12.5,"users":[],"min_samples":100,"approval":true,"hold":"24h0m0s"}`
	if !strings.Contains(string(b), stage) {
		t.Errorf("the JSON %s does not have the stage %s", b, stage)
	}
}

func TestParsePlan_FillsInDefaults(t *testing.T) {
	got, err := rollout.ParsePlan([]byte(`{"stages":[{"name":"all","percentage":100,"users":[7,"x"],"hold":"90s"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := rollout.Plan{
		Stages:   []rollout.Stage{{Name: "all", Percentage: 10000, Users: flags.NewIDs("7", "x"), Hold: 90 * time.Second}},
		OnBreach: rollout.BreachRollback, Limit: 500, MinUsers: 5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the plan (-want +got):\n%s", diff)
	}
}

func TestParsePlan_NamesEveryError(t *testing.T) {
	const ok = `{"name":"a","hold":"1h"}`
	for _, c := range []struct{ name, plan, want string }{
		{"nothing", ``, `plan: is empty (line 1, column 1)`},
		{"a list", `[]`, `plan: must be an object (line 1, column 1)`},
		{"truncated", `{"stages":[`, `plan: is not valid JSON: unexpected end of JSON input (line 1, column 11)`},
		{"a second object", `{"stages":[` + ok + `]} {}`, `plan: is not valid JSON: invalid character '{' after top-level value (line 1, column 39)`},
		{"unknown, repeated, null and mistyped fields", `{"stage":1,"limit":5,"limit":6,"on_breach":null,"notice":7,
"stages":[{"hold":3,"hld":"1h","name":[]},7]}`,
			`stage: is unknown (line 1, column 2)
limit: is duplicated (line 1, column 22)
on_breach: must not be null (line 1, column 44)
notice: must be a string (line 1, column 58)
stages[0].hold: must be a string (line 2, column 19)
stages[0].hld: is unknown (line 2, column 21)
stages[0].name: must be a string (line 2, column 39)
stages[1]: must be an object (line 2, column 43)`},
		{"an invalid duration", `{"stages":[{"name":"a","hold":"a day"}]}`, `stages[0].hold: "a day" is not a duration such as "24h" or "90s" (line 1, column 31)`},
		{"a percentage of three decimals", `{"stages":[{"name":"a","hold":"1h","percentage":10.001}]}`, `stages[0].percentage: 10.001 has more than two decimals (line 1, column 49)`},
		{"no stages", `{}`, `stages: a plan needs at least one`},
		{"too many stages", `{"stages":[` + strings.TrimSuffix(strings.Repeat(`{"name":"a","hold":"1h"},`, 101), ",") + `]}`, `stages: 101 are too many, at most 100 are allowed`},
		{"values out of bounds", `{"stages":[{"name":" ","percentage":50},{"name":"x","percentage":10,"hold":"-1s","min_samples":-1},{"name":"x","hold":"9000h","percentage":50}],
			"on_breach":"explode","limit":60,"min_users":-1,"latency_p95":"-1s","notice":"` + strings.Repeat("x", 5000) + `"}`,
			`stages[0].name: a stage needs a name
stages[0]: a stage without hold, min_samples and approval would pass at once; set one of them
stages[1].percentage: 10 is less than 50 in the stage before: a rollout only adds users
stages[1].hold: -1s is not between 0 and 8784h0m0s
stages[1].min_samples: -1 is below 0
stages[2].name: an earlier stage has the name "x" too
stages[2].hold: 9000h0m0s is not between 0 and 8784h0m0s
on_breach: "explode" is not one of rollback, off, pause, notify
limit: 60 is not between 0.01 and 50 per cent
min_users: -1 is not between 1 and 1000
latency_p95: -1s is not between 0 and 1h
notice: the text has 5000 bytes, at most 4096 are allowed`},
		{"a name with a line break", `{"stages":[{"name":"a\nb","hold":"1h"}]}`, `stages[0].name: at most 64 bytes of UTF-8 without control characters are allowed`},
		{"too long", `{"notice":"` + strings.Repeat("x", 1<<20) + `"}`, `plan: 1048589 bytes are too many, at most 1048576 are allowed; put long lists of users into the flag`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := rollout.ParsePlan([]byte(c.plan))
			if err == nil {
				t.Fatalf("ParsePlan accepted the plan: %+v", p)
			}
			if !errors.Is(err, rollout.ErrInvalid) {
				t.Errorf("the error %v is not ErrInvalid", err)
			}
			if c.name == "too many stages" { // their names are errors, too
				err = errors.New(strings.SplitN(err.Error(), "\n", 2)[0])
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Errorf("the error (-want +got):\n%s", diff)
			}
		})
	}
	bad := rollout.Plan{Stages: []rollout.Stage{{Name: "a", Hold: 1, Percentage: 10001, Users: flags.NewIDs("\x00")}}}
	if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), "stages[0].percentage: 100.01 is not between 0 and 100\nstages[0].users: ") {
		t.Errorf("a plan made in Go: %v, want errors about percentage and users", err)
	}
}

func FuzzParsePlan(f *testing.F) {
	b, _ := json.Marshal(rollout.DefaultPlan())
	for _, s := range []string{string(b), ``, `{}`, `{"stages":[{}]}`, `{"stages":null}`, `{"limit":1e400}`, `{"stages":[{"users":[1,"a"],"hold":"1h","name":"ü"}]}`, `{"stages":[{"name":"a","hold":"1h"}],"limit":0.01}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := rollout.ParsePlan(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := rollout.ParsePlan(text)
		if err != nil {
			t.Fatalf("the plan %s, written as %s, cannot be read: %v", b, text, err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Errorf("the plan that was read back (-want +got):\n%s", diff)
		}
		if slices.ContainsFunc(p.Stages, func(s rollout.Stage) bool { return s.Percentage < 0 || s.Percentage > 10000 }) {
			t.Errorf("a percentage is out of bounds: %+v", p)
		}
	})
}
