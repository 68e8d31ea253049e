package flags

import (
	"errors"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const columns = `feature_name, enabled, enabled_user_ids, disabled_user_ids, rollout_percentage, seed, notice, version, updated_at, updated_by`

// row is a row as the driver gives it: what one column holds, however strange,
// must not keep the others from being read.
type row struct {
	Name        string `db:"feature_name"`
	Enabled     any    `db:"enabled"`
	EnabledIDs  any    `db:"enabled_user_ids"`
	DisabledIDs any    `db:"disabled_user_ids"`
	Percentage  any    `db:"rollout_percentage"`
	Seed        any    `db:"seed"`
	Notice      any    `db:"notice"`
	Version     any    `db:"version"`
	UpdatedAt   any    `db:"updated_at"`
	UpdatedBy   any    `db:"updated_by"`
}

// flag reads the row. The error is a *RowError; even then the flag is good if
// the row says that it is not enabled, for the rest does not matter then and
// switching off must always work. Otherwise the flag is nil.
func (r *row) flag() (*Flag, error) {
	var errs []error
	check := func(field string, err error) {
		if err != nil {
			errs = append(errs, &FieldError{Field: field, Problem: err.Error()})
		}
	}
	f := &Flag{Name: r.Name}
	var err error
	f.Enabled, err = readBool(r.Enabled)
	check("enabled", err)
	off := err == nil && !f.Enabled
	f.EnabledUserIDs, err = readIDs(r.EnabledIDs)
	check("enabled_user_ids", err)
	f.DisabledUserIDs, err = readIDs(r.DisabledIDs)
	check("disabled_user_ids", err)
	f.Percentage, err = readPercentage(r.Percentage)
	check("rollout_percentage", err)
	f.Seed, err = readText(r.Seed)
	check("seed", err)
	f.Notice, err = readText(r.Notice)
	check("notice", err)
	f.Version, err = readInt(r.Version)
	check("version", err)
	f.UpdatedAt, err = readTime(r.UpdatedAt)
	check("updated_at", err)
	f.UpdatedBy, err = readText(r.UpdatedBy)
	check("updated_by", err)
	switch {
	case errs == nil:
		return f, nil
	case off:
		return f, &RowError{Name: r.Name, Err: errors.Join(errs...)}
	}
	return nil, &RowError{Name: r.Name, Err: errors.Join(errs...)}
}

// certain is flag for those who need all of it: nothing with an error.
func (r *row) certain() (*Flag, error) {
	f, err := r.flag()
	if err != nil {
		return nil, err
	}
	return f, nil
}

// stamp tells one state of a row from another. The version alone would not: a
// flag deleted and inserted again starts at 1.
func (r *row) stamp() Stamp {
	at := r.UpdatedAt
	if t, ok := at.(time.Time); ok {
		at = t.UnixMicro()
	}
	return Stamp(fmt.Sprintf("%v %s", r.Version, bytesAsText(at)))
}

func bytesAsText(v any) any {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}

func wanted(what string, v any) error {
	if v == nil {
		return fmt.Errorf("%s is wanted, not NULL", what)
	}
	return fmt.Errorf("%s is wanted, not a %T", what, v)
}

func readBool(v any) (bool, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case int64:
		if v == 0 || v == 1 {
			return v == 1, nil
		}
	}
	return false, wanted("true or false", v)
}

func readText(v any) (string, error) {
	if s, ok := bytesAsText(v).(string); ok {
		return s, nil
	}
	return "", wanted("a text", v)
}

func readInt(v any) (int64, error) {
	if n, ok := v.(int64); ok {
		return n, nil
	}
	return 0, wanted("a whole number", v)
}

func readIDs(v any) (IDs, error) {
	s, err := readText(v)
	if err != nil {
		return IDs{}, err
	}
	return ParseIDs(s)
}

func readPercentage(v any) (Percentage, error) {
	switch v := bytesAsText(v).(type) {
	case float64: // SQLite, which keeps a third decimal that PostgreSQL rounds
		return fromFloat(v)
	case int64:
		return fromFloat(float64(v))
	case string:
		return ParsePercentage(v)
	}
	return 0, wanted("a number", v)
}

func readTime(v any) (time.Time, error) {
	var t sqldb.Time
	if v == nil {
		return t.Time, wanted("a time", v)
	}
	err := t.Scan(v)
	return t.Time, err
}
