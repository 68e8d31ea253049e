package flags_test

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

func TestEvaluate(t *testing.T) {
	const user = "1" // bucket 8199 of "automation"
	listed, other := flags.NewIDs("0", "1"), flags.NewIDs("0", "2")
	for name, c := range map[string]struct {
		flag   *flags.Flag
		on     bool
		reason flags.Reason
	}{
		"no flag is off":                               {nil, false, flags.ReasonMissing},
		"a disabled flag is off":                       {&flags.Flag{EnabledUserIDs: listed, Percentage: 10_000}, false, flags.ReasonDisabled},
		"not enabled comes before the lists":           {&flags.Flag{DisabledUserIDs: listed, EnabledUserIDs: listed}, false, flags.ReasonDisabled},
		"disabled_user_ids wins over enabled_user_ids": {&flags.Flag{Enabled: true, DisabledUserIDs: listed, EnabledUserIDs: listed, Percentage: 10_000}, false, flags.ReasonUserDisabled},
		"an enabled user needs no percentage":          {&flags.Flag{Enabled: true, DisabledUserIDs: other, EnabledUserIDs: listed}, true, flags.ReasonUserEnabled},
		"the list comes before the percentage":         {&flags.Flag{Enabled: true, EnabledUserIDs: listed, Percentage: 10_000}, true, flags.ReasonUserEnabled},
		"a bucket below the percentage is in":          {&flags.Flag{Enabled: true, EnabledUserIDs: other, Percentage: 8200}, true, flags.ReasonInPercentage},
		"a bucket at the percentage is out":            {&flags.Flag{Enabled: true, EnabledUserIDs: other, Percentage: 8199}, false, flags.ReasonOutsidePercentage},
		"0 % is nobody":                                {&flags.Flag{Enabled: true}, false, flags.ReasonOutsidePercentage},
		"100 % is everybody who is not disabled":       {&flags.Flag{Enabled: true, DisabledUserIDs: other, Percentage: 10_000}, true, flags.ReasonInPercentage},
	} {
		want := flags.Decision{On: c.on, Reason: c.reason, Bucket: -1}
		if c.flag != nil {
			c.flag.Name, c.flag.Version = "automation", 3
			want.Version = 3
		}
		if c.reason == flags.ReasonInPercentage || c.reason == flags.ReasonOutsidePercentage {
			want.Bucket = 8199
		}
		if diff := cmp.Diff(want, flags.Evaluate(c.flag, user)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if d := flags.Evaluate(&flags.Flag{Name: "automation", Enabled: true, Seed: "other"}, user); d.Bucket != flags.Bucket("other", user) {
		t.Errorf("a flag with a seed: decision %+v, want bucket %d of the seed", d, flags.Bucket("other", user))
	}
}

func TestExplain_DecidesAsEvaluateDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	randomIDs := func() flags.IDs {
		var list []string
		for range r.IntN(4) {
			list = append(list, strconv.Itoa(r.IntN(8)))
		}
		return flags.NewIDs(list...)
	}
	seen := map[flags.Reason]bool{}
	for range 2000 {
		f := &flags.Flag{Name: "f", Enabled: r.IntN(4) > 0, EnabledUserIDs: randomIDs(), DisabledUserIDs: randomIDs(), Percentage: flags.Percentage(r.IntN(10_001)), Version: 1}
		if r.IntN(20) == 0 {
			f = nil
		}
		user, masterOn := strconv.Itoa(r.IntN(8)), r.IntN(8) > 0
		want := flags.Evaluate(f, user)
		if !masterOn {
			want.On, want.Reason = false, flags.ReasonMasterOff
		}
		if f != nil {
			want.Bucket = flags.Bucket("f", user)
		}
		e := flags.Explain(f, user, masterOn)
		if e.Decision != want {
			t.Fatalf("Explain(%+v, %s, %t) = %+v, want %+v", f, user, masterOn, e.Decision, want)
		}
		seen[e.Reason] = true
		decides := 0
		for _, s := range e.Steps {
			if s.Decides {
				decides++
			}
		}
		if decides != 1 {
			t.Fatalf("%d steps decide, want 1: %+v", decides, e)
		}
	}
	if len(seen) != 7 {
		t.Errorf("only the reasons %v occurred, want 7", seen)
	}
}

func TestExplanation_MarshalsToJSON(t *testing.T) {
	f := &flags.Flag{
		Name: "automation", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 1250, Version: 4,
		UpdatedBy: "ops", UpdatedAt: time.Date(2026, 11, 23, 6, 0, 0, 0, time.FixedZone("", 3600)),
	}
	got, err := json.MarshalIndent(flags.Explain(f, "7", true), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "feature_name": "automation",
  "user_id": "7",
  "on": true,
  "reason": "user_enabled",
  "bucket": 2048,
  "version": 4,
  "steps": [
    {
      "rule": "master switch",
      "finding": "on in this process",
      "decides": false
    },
    {
      "rule": "flag",
      "finding": "version 4, changed by ops at 2026-11-23T05:00:00Z",
      "decides": false
    },
    {
      "rule": "enabled",
      "finding": "true",
      "decides": false
    },
    {
      "rule": "disabled_user_ids",
      "finding": "the user is not among 0",
      "decides": false
    },
    {
      "rule": "enabled_user_ids",
      "finding": "the user is among 1",
      "decides": true
    },
    {
      "rule": "rollout_percentage",
      "finding": "bucket 2048 of seed \"automation\" is not below 1250, which is 12.5 %",
      "decides": false
    }
  ]
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

func TestReason_HasAText(t *testing.T) {
	for r := flags.ReasonMissing; r <= flags.ReasonOutsidePercentage; r++ {
		if text, err := r.MarshalText(); err != nil || string(text) != r.String() || strings.HasPrefix(string(text), "reason_") {
			t.Errorf("the text of reason %d is %s, %v; want %s without the prefix reason_", uint8(r), text, err, r)
		}
	}
	if s := flags.Reason(99).String(); s != "reason_99" {
		t.Errorf("the text of an unknown reason is %s, want reason_99", s)
	}
}

func TestParsePercentage(t *testing.T) {
	for text, want := range map[string]flags.Percentage{"0": 0, "10": 1000, "12.50": 1250, "0.01": 1, "99.99": 9999, "100": 10_000, "1e1": 1000, "0.07": 7, "8.29": 829} {
		if got, err := flagsql.ParsePercentage(text); err != nil || flags.Percentage(got) != want {
			t.Errorf("ParsePercentage(%s) = %d, %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"-1": "-1 is not between 0 and 100", "150": "150 is not between 0 and 100", "100.01": "100.01 is not between 0 and 100",
		"NaN": "NaN is not between 0 and 100", "Inf": "+Inf is not between 0 and 100",
		"abc": `"abc" is not a number`, "": `"" is not a number`, "0.001": "0.001 has more than two decimals", "10.005": "10.005 has more than two decimals",
	} {
		if _, err := flagsql.ParsePercentage(text); err == nil || err.Error() != want {
			t.Errorf("ParsePercentage(%q): %v, want %s", text, err, want)
		}
	}
}

func TestPercentage_SurvivesJSON(t *testing.T) {
	for p := range 100*flags.Percent + 1 {
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var got flags.Percentage
		if err := json.Unmarshal(text, &got); err != nil || got != p {
			t.Fatalf("%d is written as %s and read as %d, %v", int(p), text, int(got), err)
		}
	}
}
