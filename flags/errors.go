package flags

import (
	"errors"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Errors that errors.Is finds in the errors of this package.
var (
	// ErrNotFound says that no row has that name.
	ErrNotFound = flagsql.ErrNotFound
	// ErrConflict says that the flag is not at the version that the change
	// requires: read the flag again and decide whether to repeat the change.
	ErrConflict = flagsql.ErrConflict
	// ErrInvalid says that a value is not acceptable, see FieldError.
	ErrInvalid = flagsql.ErrInvalid
	// ErrUnavailable says that the database could not be used and nothing was
	// changed.
	ErrUnavailable = sqldb.ErrUnavailable
	// ErrOutcomeUnknown says that the database's answer to a change was lost:
	// read the flag to find out whether the change was made.
	ErrOutcomeUnknown = sqldb.ErrOutcomeUnknown
)

// FieldError says why the value of one column is not acceptable. It is an
// [ErrInvalid].
type FieldError struct {
	Field   string // the name of the column and of the JSON field
	Problem string // holds no user's id
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Unwrap returns ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// fieldErrors joins the faults of a row, each as a *FieldError.
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
	Err  error // a *FieldError for each malformed column, joined
}

func (e *RowError) Error() string {
	return fmt.Sprintf("flags: the row of %q in feature_flags cannot be read; correct it: %v", e.Name, e.Err)
}

// Unwrap returns Err.
func (e *RowError) Unwrap() error { return e.Err }
