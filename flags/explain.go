package flags

import (
	"cmp"
	"fmt"
	"time"
)

// Explanation is a decision and what each rule found.
type Explanation struct {
	Flag string `json:"feature_name"` // empty if the flag does not exist
	User string `json:"user_id"`
	Decision
	// Steps are all rules in their order. The rules after the deciding one are
	// included: they show what would decide without it.
	Steps []Step `json:"steps"`
}

// Step is one rule and what it found.
type Step struct {
	Rule    string `json:"rule"`
	Finding string `json:"finding"`
	Decides bool   `json:"decides"` // true in exactly one step
}

// Explain returns why a user has a flag or not. The decision is that of
// Evaluate, unless masterOn is false. In PostgreSQL,
// automation_explain(feature_name, user_id) decides the same, without a master
// switch.
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
	step("master switch", ReasonMasterOff, "%s in this process", onOff(masterOn))
	if f == nil {
		step("flag", ReasonMissing, "the row does not exist, or was never read")
		return e
	}
	e.Flag = f.Name
	step("flag", ReasonMissing, "version %d, changed by %s at %s", f.Version, f.UpdatedBy, f.UpdatedAt.UTC().Format(time.RFC3339))
	step("enabled", ReasonDisabled, "%t", f.Enabled)
	step("disabled_user_ids", ReasonUserDisabled, "%s %d", among(f.DisabledUserIDs.Has(user)), f.DisabledUserIDs.Len())
	step("enabled_user_ids", ReasonUserEnabled, "%s %d", among(f.EnabledUserIDs.Has(user)), f.EnabledUserIDs.Len())
	reason, is := ReasonInPercentage, "is"
	if e.Bucket >= int(f.Percentage) {
		reason, is = ReasonOutsidePercentage, "is not"
	}
	step("rollout_percentage", reason, "bucket %d of seed %q %s below %d, which is %v %%", e.Bucket, cmp.Or(f.Seed, f.Name), is, f.Percentage, f.Percentage)
	return e
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func among(isListed bool) string {
	if isListed {
		return "the user is among"
	}
	return "the user is not among"
}
