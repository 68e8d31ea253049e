package flags

import (
	"cmp"
	"fmt"
	"time"
)

// Explanation is a decision with all that went into it.
type Explanation struct {
	Flag string `json:"feature_name"` // empty where there is no flag
	User string `json:"user_id"`
	Decision
	// Steps are all the rules in their order, those after the one that decided
	// as well, so that one sees what would hold otherwise.
	Steps []Step `json:"steps"`
}

// Step is one rule and what it found.
type Step struct {
	Rule    string `json:"rule"`
	Finding string `json:"finding"`
	Decides bool   `json:"decides"` // true in exactly one step
}

// Explain returns why a user has a flag or not, with the master switch as
// given. The decision is Evaluate's. PostgreSQL has the same, but for the master
// switch, as automation_explain(feature_name, user_id).
func Explain(f *Flag, user string, masterOn bool) Explanation {
	e := Explanation{User: user, Decision: Evaluate(f, user)}
	if !masterOn {
		e.On, e.Reason = false, ReasonMasterOff
	}
	if f != nil {
		e.Bucket = f.bucket(user)
	}
	step := func(rule string, decides Reason, finding string, args ...any) {
		e.Steps = append(e.Steps, Step{rule, fmt.Sprintf(finding, args...), e.Reason == decides})
	}
	step("master switch", ReasonMasterOff, "this process's is %s", onOff(masterOn))
	if f == nil {
		step("flag", ReasonMissing, "there is no such row, or none was ever read")
		return e
	}
	e.Flag = f.Name
	step("flag", ReasonMissing, "version %d, changed by %s at %s", f.Version, f.UpdatedBy, f.UpdatedAt.UTC().Format(time.RFC3339))
	step("enabled", ReasonDisabled, "%t", f.Enabled)
	step("disabled_user_ids", ReasonUserDisabled, "%s %d", among(f.DisabledUserIDs.Has(user)), f.DisabledUserIDs.Len())
	step("enabled_user_ids", ReasonUserEnabled, "%s %d", among(f.EnabledUserIDs.Has(user)), f.EnabledUserIDs.Len())
	below, share := e.Bucket < int(f.Percentage), ReasonInPercentage
	is := "is"
	if !below {
		is, share = "is not", ReasonOutsidePercentage
	}
	step("rollout_percentage", share, "bucket %d of seed %q %s below %d, which is %v %%", e.Bucket, cmp.Or(f.Seed, f.Name), is, f.Percentage, f.Percentage)
	return e
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func among(yes bool) string {
	if yes {
		return "the user is among"
	}
	return "the user is not among"
}
