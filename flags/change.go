package flags

import (
	"context"
	"errors"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Change is what Update writes; what is nil stays as it is.
type Change struct {
	Enabled         *bool
	EnabledUserIDs  *IDs
	DisabledUserIDs *IDs
	Percentage      *Percentage
	Seed            *string // at most 255 bytes
	Notice          *string // at most 4,096 bytes
}

const (
	maxName   = 255 // of seeds and actors as well
	maxNotice = 4096
)

// Validate returns what Update would refuse: every *FieldError, joined.
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
		check("rollout_percentage", fmt.Errorf("%v is not within 0 and 100", *c.Percentage))
	}
	if c.Seed != nil {
		check("seed", checkLength(*c.Seed, maxName))
	}
	if c.Notice != nil {
		check("notice", checkLength(*c.Notice, maxNotice))
	}
	return errors.Join(errs...)
}

func checkLength(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("the text has %d bytes, at most %d are allowed", len(s), most)
	}
	return flagsql.CheckText(s)
}

// Update changes a flag and returns it as it is now. The audit says that actor
// did it. With ifVersion, the flag must be at that version; 0 is any.
//
// The errors are those of Validate, ErrNotFound, ErrConflict, ErrUnavailable,
// and ErrOutcomeUnknown. A change that changes nothing leaves the version. A row
// that cannot be read whole is a *RowError, though it has been changed; one that
// certainly is not enabled now is returned nevertheless.
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
	err := checkLength(actor, maxName)
	if actor == "" {
		err = errors.New("must name who makes the change, for the audit")
	}
	if err != nil {
		err = &FieldError{Field: "actor", Problem: err.Error()}
	}
	return errors.Join(c.Validate(), err)
}

// columns are what the change writes.
func (c Change) columns() flagsql.Change {
	u := flagsql.Change{Enabled: c.Enabled, Seed: c.Seed, Notice: c.Notice}
	if c.EnabledUserIDs != nil {
		u.EnabledUserIDs = c.EnabledUserIDs.listed()
	}
	if c.DisabledUserIDs != nil {
		u.DisabledUserIDs = c.DisabledUserIDs.listed()
	}
	if c.Percentage != nil {
		u.Percentage = new(int(*c.Percentage))
	}
	return u
}
