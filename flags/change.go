package flags

import (
	"context"
	"errors"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Change is what Update writes. A nil field leaves its column as it is.
type Change struct {
	Enabled         *bool
	EnabledUserIDs  *IDs
	DisabledUserIDs *IDs
	Percentage      *Percentage
	Seed            *string // at most 255 bytes
	Notice          *string // at most 4,096 bytes
}

// Limits in bytes.
const (
	maxName   = 255 // of a seed or an actor
	maxNotice = 4096
)

// Validate returns what Update would reject: every *FieldError, joined.
func (c Change) Validate() error {
	var errs []error
	check := func(field string, err error) {
		if err != nil {
			errs = append(errs, &FieldError{Field: field, Problem: err.Error()})
		}
	}
	if c.EnabledUserIDs != nil {
		check("enabled_user_ids", c.EnabledUserIDs.validate())
	}
	if c.DisabledUserIDs != nil {
		check("disabled_user_ids", c.DisabledUserIDs.validate())
	}
	if c.Percentage != nil && (*c.Percentage < 0 || *c.Percentage > 100*Percent) {
		check("rollout_percentage", fmt.Errorf("%v is not between 0 and 100", *c.Percentage))
	}
	if c.Seed != nil {
		check("seed", checkText(*c.Seed, maxName))
	}
	if c.Notice != nil {
		check("notice", checkText(*c.Notice, maxNotice))
	}
	return errors.Join(errs...)
}

func checkText(s string, maxBytes int) error {
	if len(s) > maxBytes {
		return fmt.Errorf("the text has %d bytes, at most %d are allowed", len(s), maxBytes)
	}
	return flagsql.CheckText(s)
}

// Update changes a flag and returns it as it is afterwards. The audit names
// actor, of 1 to 255 bytes. Unless ifVersion is 0, the flag must be at that
// version. A change to the same values does not increase the version.
//
// The errors are those of Validate, ErrNotFound, ErrConflict, ErrUnavailable,
// ErrOutcomeUnknown, and *RowError. A *RowError means that the change was made,
// but that the row has a malformed column. If such a row certainly has
// enabled = false, Update returns the flag without an error.
func (s *Store) Update(ctx context.Context, name string, c Change, actor string, ifVersion int64) (*Flag, error) {
	err := c.check(actor)
	var r flagsql.Row
	if err == nil {
		r, err = sqldb.Write(ctx, s.db, "flags.update", func(tx *sqldb.Tx) (flagsql.Row, error) {
			return flagsql.Update(tx, name, c.columns(), actor, ifVersion)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("flags: update(%q): %w", name, err)
	}
	f, err := parseRow(&r)
	if f != nil {
		return f, nil
	}
	return nil, err
}

func (c Change) check(actor string) error {
	err := checkText(actor, maxName)
	if actor == "" {
		err = errors.New("must name who makes the change, for the audit")
	}
	if err != nil {
		err = &FieldError{Field: "actor", Problem: err.Error()}
	}
	return errors.Join(c.Validate(), err)
}

// columns returns the change as flagsql.Update takes it.
func (c Change) columns() flagsql.Change {
	u := flagsql.Change{Enabled: c.Enabled, Seed: c.Seed, Notice: c.Notice}
	if c.EnabledUserIDs != nil {
		u.EnabledUserIDs = c.EnabledUserIDs.nonNilList()
	}
	if c.DisabledUserIDs != nil {
		u.DisabledUserIDs = c.DisabledUserIDs.nonNilList()
	}
	if c.Percentage != nil {
		u.Percentage = new(int(*c.Percentage))
	}
	return u
}
