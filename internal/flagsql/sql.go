package flagsql

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Loaded is what Load returns.
type Loaded struct {
	Unchanged []Row // only the columns of Versions
	Rows      []Row // new or changed
}

// Versions selects the columns that [Row.VersionText] reads.
const Versions = `SELECT feature_name, enabled, version, updated_at FROM feature_flags WHERE feature_name IS NOT NULL`

// Load reads the rows for which isChanged returns true, sorted by name. It calls
// isChanged with the columns of Versions. If isChanged is nil, Load reads all
// rows in one statement.
func Load(tx *sqldb.Tx, isChanged func(Row) bool) (l Loaded, err error) {
	if isChanged == nil {
		err = tx.Select(&l.Rows, `SELECT `+Columns+` FROM feature_flags WHERE feature_name IS NOT NULL ORDER BY feature_name`)
		return l, err
	}
	// The lists of ids are long: only changed rows are read completely.
	var versions []Row
	if err := tx.Select(&versions, Versions); err != nil {
		return l, err
	}
	var changed []string
	for _, r := range versions {
		if isChanged(r) {
			changed = append(changed, r.Name)
		} else {
			l.Unchanged = append(l.Unchanged, r)
		}
	}
	if len(changed) == 0 {
		return l, nil
	}
	names, err := json.Marshal(changed)
	if err == nil {
		err = tx.Select(&l.Rows, `SELECT `+Columns+` FROM feature_flags WHERE feature_name IN {each $1} ORDER BY feature_name`, string(names))
	}
	return l, err
}

// LoadExistingColumns reads all rows of a table that may lack columns.
func LoadExistingColumns(tx *sqldb.Tx) (l Loaded, err error) {
	columns, err := existingColumns(tx)
	if err == nil {
		err = tx.Select(&l.Rows, `SELECT `+columns+` FROM feature_flags WHERE feature_name IS NOT NULL ORDER BY feature_name`)
	}
	return l, err
}

// Get reads one row, or returns ErrNotFound.
func Get(tx *sqldb.Tx, name string) (Row, error) { return get(tx, name, Columns, "") }

// Lock reads one row and locks it until the transaction ends. Unless ifVersion is
// 0, a row at another version is ErrConflict.
func Lock(tx *sqldb.Tx, name string, ifVersion int64) (Row, error) {
	r, err := get(tx, name, Columns, "{lock}")
	if err == nil && ifVersion != 0 && r.Version != ifVersion {
		err = conflict(r, ifVersion)
	}
	return r, err
}

func get(tx *sqldb.Tx, name, columns, lock string) (Row, error) {
	var r Row
	found, err := sqldb.Optional(tx.Get(&r, `SELECT `+columns+` FROM feature_flags WHERE feature_name = $1 `+lock, name))
	if err == nil && !found {
		err = ErrNotFound
	}
	return r, err
}

func conflict(r Row, ifVersion int64) error {
	return fmt.Errorf("%w: it is at version %v, not %d", ErrConflict, r.Version, ifVersion)
}

// Update changes a flag and returns its row as it is afterwards. The audit names
// actor. Unless ifVersion is 0, a row at another version is ErrConflict. The
// statement names only the columns that change, so that a flag can be switched
// off even if the table lacks another column.
func Update(tx *sqldb.Tx, name string, c Change, actor string, ifVersion int64) (Row, error) {
	set, args, err := c.assignments(name)
	if err != nil {
		return Row{}, err
	}
	where := `feature_name = $1`
	if ifVersion != 0 {
		args = append(args, ifVersion)
		where += fmt.Sprintf(` AND version = $%d`, len(args))
	}
	if err := tx.SetActor(actor); err != nil {
		return Row{}, err
	}
	n, err := tx.Exec(`UPDATE feature_flags SET `+set+` WHERE `+where, args...)
	if sqldb.IsConstraint(err) {
		return Row{}, fmt.Errorf("%w: rejected by a constraint of the table: %w", ErrInvalid, err)
	}
	if err != nil {
		return Row{}, err
	}
	if err := tx.SetActor(""); err != nil {
		return Row{}, err
	}
	columns, err := existingColumns(tx)
	if err != nil {
		return Row{}, err
	}
	r, err := get(tx, name, columns, "")
	if n == 0 && err == nil { // the row exists, at another version
		err = conflict(r, ifVersion)
	}
	return r, err
}

// assignments returns what follows SET in the UPDATE of the flag, and the
// statement's parameters. The first parameter is the name.
func (c Change) assignments(name string) (set string, args []any, err error) {
	args = []any{name}
	var list []string
	add := func(column, format string, value any) {
		args = append(args, value)
		list = append(list, column+" = "+fmt.Sprintf(format, len(args)))
	}
	if c.Enabled != nil {
		add("enabled", "$%d", *c.Enabled)
	}
	for _, l := range []struct {
		column string
		ids    []string
	}{{"enabled_user_ids", c.EnabledUserIDs}, {"disabled_user_ids", c.DisabledUserIDs}} {
		if l.ids == nil {
			continue
		}
		b, err := json.Marshal(l.ids)
		if err != nil {
			return "", nil, err
		}
		add(l.column, "{json $%d}", string(b))
	}
	if c.Percentage != nil {
		add("rollout_percentage", "CAST($%d AS numeric)", FormatPercentage(*c.Percentage))
	}
	if c.Seed != nil {
		add("seed", "$%d", *c.Seed)
	}
	if c.Notice != nil {
		add("notice", "$%d", *c.Notice)
	}
	if len(list) == 0 { // SET must not be empty
		list = []string{"feature_name = feature_name"}
	}
	return strings.Join(list, ", "), args, nil
}
