package flags

import (
	"errors"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// What errors.Is finds in this package's errors.
var (
	// ErrNotFound says that no row has that name.
	ErrNotFound = flagsql.ErrNotFound
	// ErrConflict says that the flag is no longer at the version that the
	// change was made for: read it and decide again.
	ErrConflict = flagsql.ErrConflict
	// ErrInvalid says that a value is not acceptable, see FieldError.
	ErrInvalid = flagsql.ErrInvalid
	// ErrUnavailable says that the database could not be used and nothing was
	// changed.
	ErrUnavailable = sqldb.ErrUnavailable
	// ErrOutcomeUnknown says that the database's answer to a change was lost:
	// read the flag to find out whether it was made.
	ErrOutcomeUnknown = sqldb.ErrOutcomeUnknown
)

// FieldError is an [ErrInvalid] of one column.
type FieldError struct {
	Field   string // the column's name, which is also the one in JSON
	Problem string // holds no user's id
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Unwrap returns ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// fieldErrors returns the faults of a row as *FieldError, joined.
func fieldErrors(faults []error) error {
	errs := make([]error, len(faults))
	for i, err := range faults {
		errs[i] = err
		if f, ok := errors.AsType[flagsql.FieldError](err); ok {
			errs[i] = &FieldError{Field: f.Field, Problem: f.Problem}
		}
	}
	return errors.Join(errs...)
}

// RowError is a row of feature_flags that cannot be read, because somebody
// bypassed the table's constraints. It holds no user's id.
type RowError struct {
	Name string
	Err  error // joined, one for each column
}

func (e *RowError) Error() string {
	return fmt.Sprintf("flags: the row of %q in feature_flags cannot be read; correct it: %v", e.Name, e.Err)
}

// Unwrap returns Err.
func (e *RowError) Unwrap() error { return e.Err }
