package flags

import "fmt"

// Decision is whether a user has a feature, and why.
type Decision struct {
	On     bool   `json:"on"`
	Reason Reason `json:"reason"`
	// Bucket is the user's, 0 to 9,999, where it decided: where the reason is
	// ReasonInPercentage or ReasonOutsidePercentage, and in an Explanation
	// about a flag that there is. Otherwise it was not computed and is -1.
	Bucket  int   `json:"bucket"`
	Version int64 `json:"version"` // the flag's; 0 where there is none
}

// Evaluate decides about one user, who has the feature if
//
//   - the flag is there (a nil flag is one that is not),
//   - it is enabled,
//   - the user is not in DisabledUserIDs, and
//   - is in EnabledUserIDs, or in a bucket below Percentage.
//
// It allocates nothing, and costs one SHA-256 only where the bucket decides.
func Evaluate(f *Flag, user string) Decision {
	if f == nil {
		return Decision{Reason: ReasonMissing, Bucket: noBucket}
	}
	d := Decision{Bucket: noBucket, Version: f.Version}
	switch {
	case !f.Enabled:
		d.Reason = ReasonDisabled
	case f.DisabledUserIDs.Has(user):
		d.Reason = ReasonUserDisabled
	case f.EnabledUserIDs.Has(user):
		d.On, d.Reason = true, ReasonUserEnabled
	default:
		d.Bucket = f.bucket(user)
		d.On, d.Reason = d.Bucket < int(f.Percentage), ReasonOutsidePercentage
		if d.On {
			d.Reason = ReasonInPercentage
		}
	}
	return d
}

const noBucket = -1

// Reason is the rule that decided.
type Reason uint8

// The rules, in the order in which they are asked, except that ReasonMissing
// is first for being the zero value.
const (
	ReasonMissing           Reason = iota // no such row, or none was ever read
	ReasonMasterOff                       // this process's master switch is off
	ReasonNoUser                          // Middleware: the request is nobody's
	ReasonDisabled                        // the flag is not enabled
	ReasonUserDisabled                    // in DisabledUserIDs
	ReasonUserEnabled                     // in EnabledUserIDs
	ReasonInPercentage                    // the bucket is below the percentage
	ReasonOutsidePercentage               // it is not
	reasonCount             int    = iota
)

var reasonTexts = [reasonCount]string{"missing", "master_off", "no_user", "disabled", "user_disabled", "user_enabled", "in_percentage", "outside_percentage"}

// String is the reason in snake_case, as in JSON and in metrics.
func (r Reason) String() string {
	if int(r) < reasonCount {
		return reasonTexts[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
