package flags

import "fmt"

// Decision is whether a user has a feature, and why.
type Decision struct {
	On     bool   `json:"on"`
	Reason Reason `json:"reason"`
	// Bucket is the user's bucket, 0 to 9,999, if it decided: if the reason is
	// ReasonInPercentage or ReasonOutsidePercentage. Otherwise it is not
	// computed and is -1. An Explanation has it whenever the flag exists.
	Bucket  int   `json:"bucket"`
	Version int64 `json:"version"` // the flag's; 0 if it does not exist
}

// Evaluate decides about one user, who has the feature if
//
//   - the flag exists (f is not nil),
//   - the flag is enabled,
//   - the user is not in DisabledUserIDs, and
//   - the user is in EnabledUserIDs, or has a bucket below Percentage.
//
// It allocates nothing, and computes a SHA-256 only if the bucket decides.
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

// The rules in the order of their evaluation, except that ReasonMissing comes
// first because it is the zero value.
const (
	ReasonMissing           Reason = iota // the row does not exist, or was never read
	ReasonMasterOff                       // this process's master switch is off
	ReasonNoUser                          // Middleware: the request has no user
	ReasonDisabled                        // the flag is not enabled
	ReasonUserDisabled                    // the user is in DisabledUserIDs
	ReasonUserEnabled                     // the user is in EnabledUserIDs
	ReasonInPercentage                    // the bucket is below the percentage
	ReasonOutsidePercentage               // the bucket is not below the percentage
	reasonCount             int    = iota
)

var reasonTexts = [reasonCount]string{"missing", "master_off", "no_user", "disabled", "user_disabled", "user_enabled", "in_percentage", "outside_percentage"}

// String returns the reason in snake_case, as in JSON and in metrics.
func (r Reason) String() string {
	if int(r) < reasonCount {
		return reasonTexts[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
