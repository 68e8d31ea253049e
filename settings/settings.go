package settings

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Settings are a user's settings: the stored ones, or the defaults.
type Settings struct {
	UserID          string
	IsEnabled       bool
	SessionDuration time.Duration // within the bounds of Defaults
	Version         int64         // increases with every change; 0 if nothing is stored
	// CreatedAt and UpdatedAt are UTC times of the database's clock. They are
	// zero if nothing is stored, or if a row that the host wrote has none.
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Values are all values that a user can set.
type Values struct {
	IsEnabled       bool
	SessionDuration time.Duration // whole seconds, within the bounds of Defaults
}

// Change is a change of some values. A nil field leaves its value as it is.
type Change struct {
	IsEnabled       *bool
	SessionDuration *time.Duration // whole seconds, within the bounds of Defaults
}

// Condition is the condition under which a write happens: [Always], which is the
// zero value, or an [IfVersion].
type Condition int64

// Always writes whatever is stored.
const Always Condition = 0

const never Condition = -1

// IfVersion writes only if this version is stored; 0 means only if nothing is
// stored. No stored version is negative, so a negative version is always a
// conflict.
func IfVersion(version int64) Condition {
	if version < 0 || version == math.MaxInt64 {
		return never
	}
	return Condition(version + 1)
}

// allows reports whether a write may replace the stored version.
func (c Condition) allows(version int64) bool { return c == Always || c == IfVersion(version) }

// version returns the version that c requires. It is meaningless for Always.
func (c Condition) version() int64 { return int64(c) - 1 }

// Defaults are the settings of a user who has nothing stored, and the bounds of
// SessionDuration. All durations are whole seconds, at most 2,147,483,647.
type Defaults struct {
	IsEnabled       bool
	SessionDuration time.Duration // 0 means 1 h
	Min             time.Duration // 0 means 300 s, the chain's minimum
	Max             time.Duration // 0 means 24 h
}

// withDefaults replaces zero values by their defaults and validates the result.
func (d Defaults) withDefaults() (Defaults, error) {
	var errs []error
	for _, f := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"SessionDuration", &d.SessionDuration, time.Hour},
		{"Min", &d.Min, 300 * time.Second},
		{"Max", &d.Max, 24 * time.Hour},
	} {
		if *f.value == 0 {
			*f.value = f.zero
		}
		if *f.value < 0 || *f.value%time.Second != 0 || *f.value > math.MaxInt32*time.Second {
			errs = append(errs, fmt.Errorf("%s is %v, want whole seconds, 1 to %d", f.name, *f.value, math.MaxInt32))
		}
	}
	if d.Min > d.Max {
		errs = append(errs, fmt.Errorf("bounds: Min is %v, above Max, %v", d.Min, d.Max))
	} else if d.SessionDuration != d.clamp(d.SessionDuration) {
		errs = append(errs, fmt.Errorf("SessionDuration is %v, want %v to %v", d.SessionDuration, d.Min, d.Max))
	}
	return d, errors.Join(errs...)
}

// clamp returns v, or the nearest bound if v is outside the bounds.
func (d Defaults) clamp(v time.Duration) time.Duration { return min(max(v, d.Min), d.Max) }

// forUser returns the settings of a user who has nothing stored.
func (d Defaults) forUser(user string) Settings {
	return Settings{UserID: user, IsEnabled: d.IsEnabled, SessionDuration: d.SessionDuration}
}

// check validates the arguments of a write. It joins an *InvalidError for each
// that is invalid.
func (d Defaults) check(user string, c Change) error {
	err := checkUser(user)
	if v := c.SessionDuration; v != nil && (*v%time.Second != 0 || *v != d.clamp(*v)) {
		err = errors.Join(err, &InvalidError{"session_duration",
			fmt.Sprintf("must be whole seconds from %d to %d", seconds(d.Min), seconds(d.Max))})
	}
	return err
}

// checkUser rejects ids that a database cannot store or that a person cannot read.
func checkUser(user string) error {
	switch {
	case user == "" || len(user) > 256:
		return &InvalidError{"user_id", fmt.Sprintf("must be 1 to 256 bytes long, not %d", len(user))}
	case !utf8.ValidString(user):
		return &InvalidError{"user_id", "must be valid UTF-8"}
	case strings.ContainsFunc(user, unicode.IsControl):
		return &InvalidError{"user_id", "must have no control characters"}
	}
	return nil
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
