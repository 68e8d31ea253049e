package flags

import (
	"cmp"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// Flag is one row of feature_flags. A Flag that others may see is never
// changed: make another.
type Flag struct {
	Name            string     `json:"feature_name"`
	Enabled         bool       `json:"enabled"`
	EnabledUserIDs  IDs        `json:"enabled_user_ids"`
	DisabledUserIDs IDs        `json:"disabled_user_ids"` // wins over EnabledUserIDs
	Percentage      Percentage `json:"rollout_percentage"`
	Seed            string     `json:"seed"`    // of the cohort; empty: the flag's name
	Notice          string     `json:"notice"`  // the operators' message to the users
	Version         int64      `json:"version"` // 1 at first, one more with each change
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

// summary is the flag in a line, without anybody's id.
func (f *Flag) summary() string {
	if f == nil {
		return "missing"
	}
	return fmt.Sprintf("version %d: enabled %t, %v %%, %d in, %d out, seed %q",
		f.Version, f.Enabled, f.Percentage, f.EnabledUserIDs.Len(), f.DisabledUserIDs.Len(), cmp.Or(f.Seed, f.Name))
}

// parseRow reads a row. The error is a *RowError; even then there is a flag if
// the row says that it is not enabled, for the rest does not matter then and
// switching off must always work. Otherwise the flag is nil.
func parseRow(r *flagsql.Row) (*Flag, error) {
	v, off, faults := r.Parse()
	f := &Flag{
		Name: v.Name, Enabled: v.Enabled, EnabledUserIDs: NewIDs(v.EnabledUserIDs...), DisabledUserIDs: NewIDs(v.DisabledUserIDs...),
		Percentage: Percentage(v.Percentage), Seed: v.Seed, Notice: v.Notice, Version: v.Version, UpdatedAt: v.UpdatedAt, UpdatedBy: v.UpdatedBy,
	}
	if len(faults) == 0 {
		return f, nil
	}
	err := &RowError{Name: r.Name, Err: fieldErrors(faults)}
	if !off {
		f = nil
	}
	return f, err
}

// parseRowStrictly is parseRow for those who need all of it: no flag with an error.
func parseRowStrictly(r flagsql.Row) (*Flag, error) {
	f, err := parseRow(&r)
	if err != nil {
		return nil, err
	}
	return f, nil
}
