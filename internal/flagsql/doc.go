// Package flagsql is the SQL on the table feature_flags that package flags and
// package internal/rollout share: it reads rows, malformed ones included, and
// changes a row as an actor that the audit names.
//
// It handles plain values. Package flags gives them their meaning.
package flagsql

import (
	"errors"
	"time"
)

// Errors that errors.Is finds in the errors of this package. Package flags
// exports them.
var (
	ErrNotFound = errors.New("no such flag")
	ErrConflict = errors.New("the flag has been changed meanwhile")
	ErrInvalid  = errors.New("not acceptable")
)

// Buckets is the number of buckets, each a hundredth of a per cent.
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

// Change is what Update writes. A nil field leaves its column as it is.
type Change struct {
	Enabled         *bool
	EnabledUserIDs  []string // empty but not nil removes all ids
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
