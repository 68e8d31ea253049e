package settings

import (
	"errors"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

var (
	// ErrConflict says that the stored version is not the one that the condition
	// of a write requires. Nothing was written: read the settings again and
	// decide whether to repeat the write.
	ErrConflict = errors.New("the settings have been changed meanwhile")
	// ErrUnavailable says that the database could not be used. Nothing was
	// written.
	ErrUnavailable = sqldb.ErrUnavailable
	// ErrOutcomeUnknown says that the database's answer to a write was lost: the
	// write may have been applied or not. Repeat it, or read the settings to find
	// out. A repeated conditional write returns ErrConflict if the first one was
	// applied.
	ErrOutcomeUnknown = sqldb.ErrOutcomeUnknown
)

// InvalidError says what is wrong with one field. If several fields are invalid,
// their errors are joined.
type InvalidError struct {
	Field  string // the column's name: user_id or session_duration
	Reason string // what is expected
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }
