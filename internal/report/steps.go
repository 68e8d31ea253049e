package report

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Step is a change of who has the feature.
type Step struct {
	At         time.Time        `json:"at"`
	By         string           `json:"by"`
	Enabled    bool             `json:"enabled"` // from then on, like the others
	Percentage flags.Percentage `json:"percentage"`
	Listed     int              `json:"listed"` // users in enabled_user_ids
	Notice     string           `json:"notice,omitempty"`
}

// String returns who has the feature, such as "10 %, 3 users listed".
func (s Step) String() string {
	switch {
	case !s.Enabled:
		return "off"
	case s.Listed == 0:
		return s.Percentage.String() + " %"
	}
	return fmt.Sprintf("%s %%, %d users listed", s.Percentage, s.Listed)
}

// everybody is the exposure of 100 %.
const everybody = 1 + 100*int(flags.Percent)

// exposure returns a number that is greater the more users have the feature: 0 is
// nobody, 1 only listed users.
func (s Step) exposure() int {
	if !s.Enabled || s.Percentage == 0 && s.Listed == 0 {
		return 0
	}
	return 1 + int(s.Percentage)
}

// rolloutStart returns the index of the current rollout's first step, which gave
// the feature to users while nobody had it, or -1 if nobody has ever had it. If the
// feature is switched on again, the rollout continues if at least as many users as
// ever before get it; otherwise another one begins.
func rolloutStart(steps []Step) int {
	start, reached, before := -1, 0, 0
	for i, s := range steps {
		now := s.exposure()
		if before == 0 && now > 0 && (start < 0 || now < reached) {
			start, reached = i, 0
		}
		reached, before = max(reached, now), now
	}
	return start
}

// takenBackAt returns the index of the last step by which users lost the
// feature, or 0 if there is none or as many users have had it again since.
func takenBackAt(steps []Step) int {
	reached := 0
	for i := len(steps) - 1; i > 0; i-- {
		reached = max(reached, steps[i].exposure())
		if before := steps[i-1].exposure(); before > steps[i].exposure() && before > reached {
			return i
		}
	}
	return 0
}

// maxSteps bounds how far back the audit is read.
const maxSteps = 1000

// change is a row of the audit, without the lists themselves.
type change struct {
	At            sqldb.Time     `db:"changed_at"`
	By            string         `db:"changed_by"`
	Action        string         `db:"action"`
	Enabled       sql.NullString `db:"enabled"` // after the change, like the others
	WasEnabled    sql.NullString `db:"was_enabled"`
	Percentage    sql.NullString `db:"percentage"`
	WasPercentage sql.NullString `db:"was_percentage"`
	Listed        sql.NullInt64  `db:"listed"`
	WasListed     sql.NullInt64  `db:"was_listed"`
	Notice        sql.NullString `db:"notice"`
}

// steps returns the database's time, and the changes of who has a flag, the oldest
// first. The first step is the state in which the audit begins.
func (m *Maker) steps(ctx context.Context, name string) (time.Time, []Step, error) {
	f, err := m.flags.Get(ctx, name)
	if err != nil {
		return time.Time{}, nil, err
	}
	var now sqldb.Time
	changes, err := sqldb.Read(ctx, m.db, "report.steps", func(tx *sqldb.Tx) (list []change, err error) {
		length := `jsonb_array_length(%s -> 'enabled_user_ids')`
		if tx.SQLite() {
			length = `json_array_length(%s, '$.enabled_user_ids')`
		}
		if err := tx.Get(&now, `SELECT {now}`); err != nil {
			return nil, err
		}
		return list, tx.Select(&list, `SELECT changed_at, changed_by, action,
				CAST(after ->> 'enabled' AS text) AS enabled, CAST(before ->> 'enabled' AS text) AS was_enabled,
				CAST(after ->> 'rollout_percentage' AS text) AS percentage, CAST(before ->> 'rollout_percentage' AS text) AS was_percentage,
				`+fmt.Sprintf(length, "after")+` AS listed, `+fmt.Sprintf(length, "before")+` AS was_listed, CAST(after ->> 'notice' AS text) AS notice
			FROM feature_flag_events WHERE feature_name = $1 AND action IN ('insert', 'update', 'delete') ORDER BY id DESC LIMIT $2`, name, maxSteps)
	})
	if err != nil {
		return time.Time{}, nil, err
	}
	// Begin with the present state, and undo one change after the other.
	state := Step{Enabled: f.Enabled, Percentage: f.Percentage, Listed: f.EnabledUserIDs.Len()}
	var steps []Step
	for _, c := range changes {
		s := state
		s.At, s.By, s.Notice = c.At.Time, c.By, c.Notice.String
		steps = append(steps, s)
		if state, err = c.before(state); err != nil {
			return time.Time{}, nil, err
		}
		if c.Action == "insert" {
			break
		}
	}
	if len(changes) == 0 || changes[len(changes)-1].Action != "insert" {
		// The audit begins later than the flag, such as after an existing table was
		// adopted. The time of the first state is then the earliest one known.
		state.At = f.UpdatedAt
		if len(changes) > 0 {
			state.At = changes[len(changes)-1].At.Time
		}
		steps = append(steps, state)
	}
	slices.Reverse(steps)
	// One more listed user does not begin another stage.
	steps = slices.CompactFunc(steps, func(a, b Step) bool { return a.exposure() == b.exposure() })
	return now.Time, steps, nil
}

// before returns the state before the change, given the state after it.
func (c change) before(s Step) (Step, error) {
	if c.WasEnabled.Valid {
		s.Enabled = c.WasEnabled.String == "true" || c.WasEnabled.String == "1" // as SQLite writes it
	}
	if c.WasListed.Valid {
		s.Listed = int(c.WasListed.Int64)
	}
	if c.WasPercentage.Valid {
		p, err := flagsql.ParsePercentage(trimZeros(c.WasPercentage.String))
		if err != nil {
			return s, fmt.Errorf("feature_flag_events: %w", err)
		}
		s.Percentage = flags.Percentage(p)
	}
	return s, nil
}

// trimZeros removes the zeros at the end of a decimal: 10.00 becomes 10.
func trimZeros(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
