// Package flagsql is the SQL on the table feature_flags that package flags and
// package flags/rollout share: reading rows, whatever they hold, and changing
// one as an actor that the audit names.
//
// It deals in plain values. What they mean is package flags' matter.
package flagsql

import (
	"errors"
	"time"
)

// What errors.Is finds in this package's errors; package flags exports them.
var (
	ErrNotFound = errors.New("no such flag")
	ErrConflict = errors.New("the flag has been changed meanwhile")
	ErrInvalid  = errors.New("not acceptable")
)

// Buckets is how many buckets there are: the parts of a percentage of 100 %.
const Buckets = 10_000

// Flag is one row of feature_flags.
type Flag struct {
	Name            string
	Enabled         bool
	EnabledUserIDs  []string
	DisabledUserIDs []string
	Percentage      int // hundredths of a per cent
	Seed            string
	Notice          string
	Version         int64
	UpdatedAt       time.Time
	UpdatedBy       string
}

// Change is what Update shall write; nil stays as it is.
type Change struct {
	Enabled         *bool
	EnabledUserIDs  []string // empty but not nil removes all
	DisabledUserIDs []string
	Percentage      *int
	Seed            *string
	Notice          *string
}

// FieldError says what is wrong with one column. It holds no user's id.
type FieldError struct{ Field, Problem string }

func (e FieldError) Error() string { return e.Field + ": " + e.Problem }

// Unwrap returns ErrInvalid.
func (e FieldError) Unwrap() error { return ErrInvalid }
