package flagsql

import (
	"encoding/json"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Loaded is what Load found.
type Loaded struct {
	Unchanged []Row // only their names and versions
	Rows      []Row
}

// Load reads the rows for which unchanged is false, by name; with nil, all, in
// one statement.
func Load(tx *sqldb.Tx, unchanged func(Row) bool) (l Loaded, err error) {
	if unchanged == nil {
		err = tx.Select(&l.Rows, `SELECT `+Columns+` FROM feature_flags WHERE feature_name IS NOT NULL ORDER BY feature_name`)
		return l, err
	}
	// Lists are long: only what has changed is read whole.
	var versions []Row
	if err := tx.Select(&versions, `SELECT feature_name, enabled, version, updated_at FROM feature_flags WHERE feature_name IS NOT NULL`); err != nil {
		return l, err
	}
	var changed []string
	for _, r := range versions {
		if unchanged(r) {
			l.Unchanged = append(l.Unchanged, r)
		} else {
			changed = append(changed, r.Name)
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

// LoadWhatIsThere reads all rows of a table that lacks columns.
func LoadWhatIsThere(tx *sqldb.Tx) (l Loaded, err error) {
	columns, err := columnsThere(tx)
	if err == nil {
		err = tx.Select(&l.Rows, `SELECT `+columns+` FROM feature_flags WHERE feature_name IS NOT NULL ORDER BY feature_name`)
	}
	return l, err
}

// Get reads one row, or returns ErrNotFound.
func Get(tx *sqldb.Tx, name string) (Row, error) { return get(tx, name, "") }

// Lock reads one row and keeps others from changing it until the transaction
// ends. The flag must be at ifVersion, where that is not 0, or it is ErrConflict.
func Lock(tx *sqldb.Tx, name string, ifVersion int64) (Row, error) {
	r, err := get(tx, name, "{lock}")
	if err == nil && ifVersion != 0 && r.Version != ifVersion {
		err = conflict(r, ifVersion)
	}
	return r, err
}

func get(tx *sqldb.Tx, name, lock string) (Row, error) {
	var r Row
	found, err := sqldb.Optional(tx.Get(&r, `SELECT `+Columns+` FROM feature_flags WHERE feature_name = $1 `+lock, name))
	if err == nil && !found {
		err = ErrNotFound
	}
	return r, err
}

func conflict(r Row, ifVersion int64) error {
	return fmt.Errorf("%w: it is at version %v, not %d", ErrConflict, r.Version, ifVersion)
}

// Update changes a flag and returns its row as it is now; the audit says that
// actor did it. With ifVersion, the flag must be at that version; 0 is any.
func Update(tx *sqldb.Tx, name string, c Change, actor string, ifVersion int64) (Row, error) {
	enabledIDs, err := listText(c.EnabledUserIDs)
	if err != nil {
		return Row{}, err
	}
	disabledIDs, err := listText(c.DisabledUserIDs)
	if err != nil {
		return Row{}, err
	}
	var percentage *string
	if c.Percentage != nil {
		percentage = new(FormatPercentage(*c.Percentage))
	}
	if err := tx.SetContext("actor", actor); err != nil {
		return Row{}, err
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
		return Row{}, fmt.Errorf("%w: a constraint of the table refuses it: %w", ErrInvalid, err)
	}
	if err != nil {
		return Row{}, err
	}
	if err := tx.SetContext("actor", ""); err != nil {
		return Row{}, err
	}
	r, err := Get(tx, name)
	if n == 0 && err == nil {
		err = conflict(r, ifVersion)
	}
	return r, err
}

// listText is a list as JSON, or nil where there is none.
func listText(ids []string) (*string, error) {
	if ids == nil {
		return nil, nil
	}
	b, err := json.Marshal(ids)
	return new(string(b)), err
}
