package flags

import (
	"cmp"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// Flag is one row of feature_flags. Do not modify a Flag that others may read:
// modify a copy.
type Flag struct {
	Name            string     `json:"feature_name"`
	Enabled         bool       `json:"enabled"`
	EnabledUserIDs  IDs        `json:"enabled_user_ids"`
	DisabledUserIDs IDs        `json:"disabled_user_ids"` // wins over EnabledUserIDs
	Percentage      Percentage `json:"rollout_percentage"`
	Seed            string     `json:"seed"`    // of the cohort; empty means the flag's name
	Notice          string     `json:"notice"`  // the operators' message to the users
	Version         int64      `json:"version"` // starts at 1; each change adds 1
	UpdatedAt       time.Time  `json:"updated_at"`
	UpdatedBy       string     `json:"updated_by"`
}

// bucket returns the user's bucket in the flag's cohort.
func (f *Flag) bucket(user string) int {
	if f.Seed != "" {
		return Bucket(f.Seed, user)
	}
	return Bucket(f.Name, user)
}

// summary describes the flag in one line, without any user's id.
func (f *Flag) summary() string {
	if f == nil {
		return "missing"
	}
	return fmt.Sprintf("version %d: enabled %t, %v %%, %d in, %d out, seed %q",
		f.Version, f.Enabled, f.Percentage, f.EnabledUserIDs.Len(), f.DisabledUserIDs.Len(), cmp.Or(f.Seed, f.Name))
}

// parseRow parses a row. The error is a *RowError. With an error the flag is
// nil, unless the row certainly has enabled = false: switching off must work
// whatever the other columns hold.
func parseRow(r *flagsql.Row) (*Flag, error) {
	v, isOff, faults := r.Parse()
	f := &Flag{
		Name: v.Name, Enabled: v.Enabled, EnabledUserIDs: NewIDs(v.EnabledUserIDs...), DisabledUserIDs: NewIDs(v.DisabledUserIDs...),
		Percentage: Percentage(v.Percentage), Seed: v.Seed, Notice: v.Notice, Version: v.Version, UpdatedAt: v.UpdatedAt, UpdatedBy: v.UpdatedBy,
	}
	if len(faults) == 0 {
		return f, nil
	}
	err := &RowError{Name: r.Name, Err: fieldErrors(faults)}
	if !isOff {
		f = nil
	}
	return f, err
}

// parseRowStrictly is parseRow, but with an error the flag is always nil.
func parseRowStrictly(r flagsql.Row) (*Flag, error) {
	f, err := parseRow(&r)
	if err != nil {
		return nil, err
	}
	return f, nil
}
