package settings

import (
	"errors"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

var (
	// ErrConflict says that another version is stored than the condition of a
	// write requires. Nothing was written: read again, then decide.
	ErrConflict = errors.New("the settings have been changed meanwhile")
	// ErrUnavailable says that the database could not be used. Nothing was
	// written.
	ErrUnavailable = sqldb.ErrUnavailable
	// ErrOutcomeUnknown says that the database's answer to a write was lost, so
	// that it was applied or not. Repeat it, or read to find out; a conditional
	// write that was applied ends in ErrConflict when it is repeated.
	ErrOutcomeUnknown = sqldb.ErrOutcomeUnknown
)

// InvalidError says what is wrong with one field. All that is wrong with a call
// comes joined in one error.
type InvalidError struct {
	Field  string // the column's name: user_id or session_duration
	Reason string // what is expected
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }
