package flags

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Change is what Update shall change; what is nil stays as it is.
type Change struct {
	Enabled         *bool       `json:"enabled,omitempty"`
	EnabledUserIDs  *IDs        `json:"enabled_user_ids,omitempty"`
	DisabledUserIDs *IDs        `json:"disabled_user_ids,omitempty"`
	Percentage      *Percentage `json:"rollout_percentage,omitempty"`
	Seed            *string     `json:"seed,omitempty"`   // at most 255 bytes
	Notice          *string     `json:"notice,omitempty"` // at most 4,096 bytes
}

// UnmarshalJSON reads an object. Every complaint is a *FieldError: a field that
// is unknown, null, or of the wrong type.
func (c *Change) UnmarshalJSON(b []byte) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(b, &given); err != nil || given == nil {
		return fmt.Errorf("flags: an object of a flag's fields is wanted: %w", ErrInvalid)
	}
	fields := map[string]any{
		"enabled": &c.Enabled, "enabled_user_ids": &c.EnabledUserIDs, "disabled_user_ids": &c.DisabledUserIDs,
		"rollout_percentage": &c.Percentage, "seed": &c.Seed, "notice": &c.Notice,
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(given)) {
		into, ok := fields[name]
		switch {
		case !ok:
			errs = append(errs, &FieldError{Field: name, Problem: "a flag has no such field that can be changed"})
		case string(given[name]) == "null":
			errs = append(errs, &FieldError{Field: name, Problem: "null is no value; leave the field out to keep it"})
		default:
			err := json.Unmarshal(given[name], into)
			if err == nil {
				continue
			}
			problem := err.Error()
			if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
				problem = "a " + wrong.Type.String() + " is wanted, not a " + wrong.Value
			}
			errs = append(errs, &FieldError{Field: name, Problem: problem})
		}
	}
	return errors.Join(errs...)
}

const (
	maxName   = 255 // of seeds and actors as well
	maxNotice = 4096
)

// Validate tells what Update would refuse: every *FieldError, joined.
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

func (s IDs) validate() error {
	size := 2
	for id := range s.all() {
		if err := checkID(id); err != nil {
			return err
		}
		size += len(id) + 3
	}
	if size > MaxList {
		return fmt.Errorf("the list would have %d bytes, at most %d are allowed", size, MaxList)
	}
	return nil
}

func checkLength(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("the text has %d bytes, at most %d are allowed", len(s), most)
	}
	return checkText(s)
}

// Update changes a flag and returns it as it is now. The audit says that actor
// did it. With ifVersion, the flag must be at that version; 0 is any.
//
// The errors are those of Validate, ErrNotFound, ErrConflict, ErrUnavailable,
// and ErrOutcomeUnknown. A change that changes nothing leaves the version.
func (s *Store) Update(ctx context.Context, name string, c Change, actor string, ifVersion int64) (*Flag, error) {
	err := c.check(actor)
	var r row
	if err == nil {
		r, err = sqldb.Write(ctx, s.db, "flags.update", func(tx *sqldb.Tx) (row, error) {
			return c.apply(tx, name, actor, ifVersion)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("flags: update(%q): %w", name, err)
	}
	return r.certain()
}

// UpdateIn is Update as a part of a transaction of this module's other
// packages. Hosts use Update.
func UpdateIn(tx *sqldb.Tx, name string, c Change, actor string, ifVersion int64) (*Flag, error) {
	if err := c.check(actor); err != nil {
		return nil, err
	}
	r, err := c.apply(tx, name, actor, ifVersion)
	if err != nil {
		return nil, err
	}
	return r.certain()
}

func (c Change) check(actor string) error {
	err := checkLength(actor, maxName)
	if actor == "" {
		err = errors.New("who makes the change is wanted, for the audit")
	}
	if err != nil {
		err = &FieldError{Field: "actor", Problem: err.Error()}
	}
	return errors.Join(c.Validate(), err)
}

func (c Change) apply(tx *sqldb.Tx, name, actor string, ifVersion int64) (row, error) {
	enabledIDs, err := listText(c.EnabledUserIDs)
	if err != nil {
		return row{}, err
	}
	disabledIDs, err := listText(c.DisabledUserIDs)
	if err != nil {
		return row{}, err
	}
	var percentage *string
	if c.Percentage != nil {
		s := c.Percentage.String()
		percentage = &s
	}
	if err := setActor(tx, actor); err != nil {
		return row{}, err
	}
	n, err := tx.Exec(`UPDATE feature_flags SET
			enabled            = coalesce($2, enabled),
			enabled_user_ids   = coalesce({json $3}, enabled_user_ids),
			disabled_user_ids  = coalesce({json $4}, disabled_user_ids),
			rollout_percentage = coalesce(CAST($5 AS numeric), rollout_percentage),
			seed               = coalesce($6, seed),
			notice             = coalesce($7, notice)
		WHERE feature_name = $1 AND (CAST($8 AS bigint) = 0 OR version = $8)`,
		name, c.Enabled, enabledIDs, disabledIDs, percentage, c.Seed, c.Notice, ifVersion)
	if sqldb.IsConstraint(err) {
		return row{}, fmt.Errorf("%w: a constraint of the table refuses it: %w", ErrInvalid, err)
	}
	if err != nil {
		return row{}, err
	}
	if err := clearActor(tx); err != nil {
		return row{}, err
	}
	r, err := get(tx, name)
	if n == 0 && err == nil {
		err = fmt.Errorf("%w: it is at version %v, not %d", ErrConflict, r.Version, ifVersion)
	}
	return r, err
}

func listText(s *IDs) (*string, error) {
	if s == nil {
		return nil, nil
	}
	b, err := json.Marshal(*s)
	text := string(b)
	return &text, err
}

// setActor tells the table's triggers who is acting, until clearActor or the
// end of the transaction.
func setActor(tx *sqldb.Tx, actor string) error {
	query := `SELECT set_config('automation.actor', $1, true)`
	if tx.SQLite() {
		query = `INSERT OR REPLACE INTO automation_context (key, value) VALUES ('actor', $1)`
	}
	_, err := tx.Exec(query, actor)
	return err
}

func clearActor(tx *sqldb.Tx) error {
	query := `SELECT set_config('automation.actor', '', true)`
	if tx.SQLite() {
		query = `DELETE FROM automation_context WHERE key = 'actor'`
	}
	_, err := tx.Exec(query)
	return err
}
