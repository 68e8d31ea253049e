package flags

import (
	"fmt"
	"time"
)

// Flag is one row of feature_flags. A Flag that others may see is never
// changed: make another.
type Flag struct {
	Name            string     `json:"feature_name"`
	Enabled         bool       `json:"enabled"`
	EnabledUserIDs  IDs        `json:"enabled_user_ids"`
	DisabledUserIDs IDs        `json:"disabled_user_ids"` // wins over EnabledUserIDs
	Percentage      Percentage `json:"rollout_percentage"`
	Seed            string     `json:"seed"`    // draws the cohort; empty: the name does
	Notice          string     `json:"notice"`  // the operators' word to the users
	Version         int64      `json:"version"` // 1 at first, one more with each change
	UpdatedAt       time.Time  `json:"updated_at"`
	UpdatedBy       string     `json:"updated_by"`
}

// Bucket is the user's bucket in the flag's cohort, see the function Bucket.
func (f *Flag) Bucket(user string) int {
	if f.Seed != "" {
		return Bucket(f.Seed, user)
	}
	return Bucket(f.Name, user)
}

// Decision is whether a user has a feature, and why. The zero value is that of
// a flag that is missing.
type Decision struct {
	On      bool   `json:"on"`
	Reason  Reason `json:"reason"`
	Bucket  int    `json:"bucket"`  // 0 to 9,999; 0 where there is no flag
	Version int64  `json:"version"` // the flag's; 0 where there is none
}

// Evaluate decides about one user, who has the feature if
//
//   - the flag is there (a nil flag is one that is not),
//   - it is enabled,
//   - the user is not in DisabledUserIDs, and
//   - is in EnabledUserIDs, or in a bucket below Percentage.
//
// It allocates nothing, and costs one SHA-256 whichever way it goes.
func Evaluate(f *Flag, user string) Decision {
	if f == nil {
		return Decision{Reason: Missing}
	}
	d := Decision{Bucket: f.Bucket(user), Version: f.Version}
	switch {
	case !f.Enabled:
		d.Reason = Disabled
	case f.DisabledUserIDs.Has(user):
		d.Reason = UserDisabled
	case f.EnabledUserIDs.Has(user):
		d.On, d.Reason = true, UserEnabled
	case d.Bucket < int(f.Percentage):
		d.On, d.Reason = true, InPercentage
	default:
		d.Reason = OutsidePercentage
	}
	return d
}

// Reason is the rule that decided.
type Reason uint8

// The rules, in the order in which they are asked, but for Missing, which is
// first for being the zero value.
const (
	Missing           Reason = iota // no such row, or none was ever read
	MasterOff                       // this process's master switch is off
	NoUser                          // Middleware: the request is nobody's
	Disabled                        // the flag is not enabled
	UserDisabled                    // in DisabledUserIDs
	UserEnabled                     // in EnabledUserIDs
	InPercentage                    // the bucket is below the percentage
	OutsidePercentage               // it is not
	reasons           int    = iota
)

var reasonTexts = [reasons]string{"missing", "master_off", "no_user", "disabled", "user_disabled", "user_enabled", "in_percentage", "outside_percentage"}

// String is the reason in snake_case, as in JSON and in metrics.
func (r Reason) String() string {
	if int(r) < reasons {
		return reasonTexts[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Reason) UnmarshalText(b []byte) error {
	for i, s := range reasonTexts {
		if s == string(b) {
			*r = Reason(i)
			return nil
		}
	}
	return fmt.Errorf("flags: %.40q is no reason", b)
}
