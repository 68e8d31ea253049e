package rollout

import (
	"errors"
	"fmt"
	"strings"
)

// The errors that this package returns wrap one of these, or one of package
// flags: ErrNotFound (there is no such flag), ErrConflict (the flag was changed by
// hand since the last evaluation), ErrUnavailable or ErrOutcomeUnknown.
var (
	// ErrNotFound says that there is no rollout of that name.
	ErrNotFound = errors.New("no such rollout")
	// ErrIllegal says that an action is not legal in the rollout's state, see IllegalError.
	ErrIllegal = errors.New("not possible now")
	// ErrInvalid says that a plan or an argument is not acceptable.
	ErrInvalid = errors.New("not acceptable")
)

// IllegalError says that an action is not legal in the rollout's state. It wraps
// [ErrIllegal].
type IllegalError struct {
	Action  Action
	State   State    // "" where there is no rollout yet
	Why     string   // the reason, or "" if the state allows only the Allowed actions
	Allowed []Action // the operators' actions in the state, in alphabetical order
}

func (e *IllegalError) Error() string {
	if e.Why != "" {
		return fmt.Sprintf("%s: %v: %s", e.Action, ErrIllegal, e.Why)
	}
	allowed := make([]string, len(e.Allowed))
	for i, a := range e.Allowed {
		allowed[i] = string(a)
	}
	return fmt.Sprintf("%s: %v: the rollout is %s; allowed: %s", e.Action, ErrIllegal, e.State, strings.Join(allowed, ", "))
}

// Unwrap returns ErrIllegal.
func (e *IllegalError) Unwrap() error { return ErrIllegal }

// RowError says that the row of a rollout cannot be read, because somebody
// bypassed the table's constraints. Other rollouts are not affected.
type RowError struct {
	Name string
	Err  error
}

func (e *RowError) Error() string {
	return fmt.Sprintf("rollout: the row of %q in automation_rollouts cannot be read; fix it: %v", e.Name, e.Err)
}

// Unwrap returns Err.
func (e *RowError) Unwrap() error { return e.Err }
