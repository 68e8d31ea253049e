package flagsql

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Columns are the columns of a Row.
const Columns = `feature_name, enabled, enabled_user_ids, disabled_user_ids, rollout_percentage, seed, notice, version, updated_at, updated_by`

// existingColumns returns Columns with NULL in place of the columns that the
// table lacks. Without the table it returns Columns, so that the query that
// uses them fails.
func existingColumns(tx *sqldb.Tx) (string, error) {
	query := `SELECT CAST(attname AS text) FROM pg_attribute WHERE attrelid = to_regclass('feature_flags') AND attnum > 0 AND NOT attisdropped`
	if tx.SQLite() {
		query = `SELECT name FROM pragma_table_info('feature_flags')`
	}
	var existing []string
	if err := tx.Select(&existing, query); err != nil || !slices.Contains(existing, "feature_name") {
		return Columns, err
	}
	columns := strings.Split(Columns, ", ")
	for i, c := range columns {
		if !slices.Contains(existing, c) {
			columns[i] = "NULL AS " + c
		}
	}
	return strings.Join(columns, ", "), nil
}

// Row is a row of feature_flags as the driver returns it. Its fields are any, so
// that a malformed column does not prevent reading the others.
type Row struct {
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

// Parse parses the row. It returns a FieldError for each malformed column. isOff
// reports whether the row certainly has enabled = false; then the flag is off
// whatever the errors are.
func (r *Row) Parse() (f Flag, isOff bool, errs []error) {
	check := func(field string, err error) {
		if err != nil {
			errs = append(errs, FieldError{field, err.Error()})
		}
	}
	f.Name = r.Name
	var err error
	f.Enabled, err = readBool(r.Enabled)
	check("enabled", err)
	isOff = err == nil && !f.Enabled
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
	return f, isOff, errs
}

// Parsed parses the row that a function of this package returned together with
// err. It returns err if that is not nil, and an error for a malformed row.
func Parsed(r Row, err error) (Flag, error) {
	if err != nil {
		return Flag{}, err
	}
	f, _, faults := r.Parse()
	if len(faults) > 0 {
		return Flag{}, fmt.Errorf("the row of %q in feature_flags cannot be read: %w", r.Name, errors.Join(faults...))
	}
	return f, nil
}

// VersionText identifies a state of the row. The column version alone does not: a
// flag that is deleted and inserted again starts at 1, and without the triggers
// the version never increases.
func (r *Row) VersionText() string {
	if r.Version == nil || r.UpdatedAt == nil || r.Enabled == nil { // the table may lack the column
		return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%v", *r)))
	}
	at := r.UpdatedAt
	if t, ok := at.(time.Time); ok {
		at = t.UnixMicro()
	}
	return fmt.Sprintf("%v %s %v", r.Version, bytesAsText(at), bytesAsText(r.Enabled))
}

func bytesAsText(v any) any {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}

// typeError says that a column must hold what, and not v.
func typeError(what string, v any) error {
	if v == nil {
		return fmt.Errorf("must be %s, not NULL", what)
	}
	return fmt.Errorf("must be %s, not a %T", what, v)
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
	return false, typeError("true or false", v)
}

func readText(v any) (string, error) {
	if s, ok := bytesAsText(v).(string); ok {
		return s, nil
	}
	return "", typeError("a text", v)
}

func readInt(v any) (int64, error) {
	if n, ok := v.(int64); ok {
		return n, nil
	}
	return 0, typeError("a whole number", v)
}

func readIDs(v any) ([]string, error) {
	s, err := readText(v)
	if err != nil {
		return nil, err
	}
	return ParseIDs(s)
}

func readPercentage(v any) (int, error) {
	switch v := bytesAsText(v).(type) {
	case float64: // SQLite, which stores more decimals than PostgreSQL's numeric(5,2)
		return percentage(v)
	case int64:
		return percentage(float64(v))
	case string:
		return ParsePercentage(v)
	}
	return 0, typeError("a number", v)
}

func readTime(v any) (time.Time, error) {
	var t sqldb.Time
	if v == nil {
		return t.Time, typeError("a time", v)
	}
	err := t.Scan(v)
	return t.Time, err
}
