// Package feedback stores what users say about the automation feature. Operators
// review it before they advance a rollout.
//
// An entry keeps the stage that the rollout had when the entry was written, so that
// a review of one stage shows what that stage's users said.
package feedback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// The bounds of an entry. A message is counted in characters, not in bytes.
const (
	MaxMessage = 2000
	MinRating  = 1
	MaxRating  = 5
)

// MaxPage is the greatest number of entries in one page.
const MaxPage = 1000

// ErrNotFound means that no entry has the id.
var ErrNotFound = errors.New("no such feedback")

// ErrInvalid is what errors.Is finds in every *InvalidError.
var ErrInvalid = errors.New("invalid feedback")

// InvalidError says which field of an entry is out of bounds.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return "invalid feedback: " + e.Field + ": " + e.Reason }

// Is reports whether target is [ErrInvalid].
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// Entry is what one user said once.
type Entry struct {
	ID        int64      `json:"id" db:"id"`
	UserID    string     `json:"user_id" db:"user_id"`
	Rating    *int       `json:"rating" db:"rating"` // 1 to 5, or nil if the user gave none
	Message   string     `json:"message" db:"message"`
	Stage     string     `json:"stage" db:"stage"` // of the rollout when it was written, or the flag's percentage without one
	CreatedAt sqldb.Time `json:"created_at" db:"created_at"`
	DoneAt    sqldb.Time `json:"done_at,omitzero" db:"done_at"` // zero until an operator has dealt with it
	DoneBy    string     `json:"done_by,omitempty" db:"done_by"`
}

// Filter selects entries. The zero value selects the newest 100.
type Filter struct {
	Open   bool   // only those that nobody has dealt with
	Stage  string // only those of this stage
	UserID string // only those of this user
	Before int64  // only ids below this one: the cursor of the next page
	Limit  int    // 0 means 100, at most MaxPage
}

// StageCount sums up one stage's feedback.
type StageCount struct {
	Stage  string  `json:"stage"`
	Count  int     `json:"count"`
	Open   int     `json:"open"`
	Rated  int     `json:"rated"`  // entries that have a rating
	Rating float64 `json:"rating"` // the mean of the ratings; 0 without ratings
}

// Store reads and writes the table automation_feedback.
type Store struct{ db *sqldb.DB }

// NewStore returns a Store on the host's pool. It does no I/O.
func NewStore(pool *sqlx.DB, o sqldb.Options) *Store { return &Store{sqldb.New(pool, o)} }

const columns = `id, user_id, rating, message, stage, created_at, done_at, done_by`

// The stage of the flag $5: the name of its rollout's stage or, without a rollout,
// the flag's percentage.
const (
	rolloutStage = `(SELECT e.stage_name FROM automation_rollouts r JOIN automation_rollout_events e ON e.rollout = r.name AND e.seq = r.seq
		WHERE r.name = $5 AND r.state IN ('running', 'paused', 'completed'))`
	flagStage = `(SELECT RTRIM(RTRIM(CAST(rollout_percentage AS text), '0'), '.') || ' %' FROM feature_flags WHERE feature_name = $5)`
)

// Check returns an *[InvalidError] for a rating or a message that is out of bounds.
func Check(rating *int, message string) error {
	switch {
	case rating != nil && (*rating < MinRating || *rating > MaxRating):
		return &InvalidError{"rating", fmt.Sprintf("must be from %d to %d", MinRating, MaxRating)}
	case strings.TrimSpace(message) == "":
		return &InvalidError{"message", "must not be empty"}
	case !utf8.ValidString(message) || strings.ContainsRune(message, 0):
		return &InvalidError{"message", "must be UTF-8 text without NUL"}
	case utf8.RuneCountInString(message) > MaxMessage:
		return &InvalidError{"message", fmt.Sprintf("must have at most %d characters", MaxMessage)}
	}
	return nil
}

// Add stores what a user said, with the stage that the flag is in. The key
// identifies the submission: if it is repeated with the same key, Add returns the
// stored entry, so that a client may safely try again. The errors are an
// *[InvalidError], and those that wrap sqldb.ErrUnavailable or
// sqldb.ErrOutcomeUnknown.
func (s *Store) Add(ctx context.Context, flag, userID, key string, rating *int, message string) (Entry, error) {
	if err := Check(rating, message); err != nil {
		return Entry{}, fmt.Errorf("feedback.add: %w", err)
	}
	add := func(tx *sqldb.Tx) (e Entry, err error) {
		err = tx.Get(&e, `INSERT INTO automation_feedback (key, user_id, rating, message, stage, created_at)
			VALUES ($1, $2, $3, $4, COALESCE(`+rolloutStage+`, `+flagStage+`, ''), {now})
			ON CONFLICT (key) DO UPDATE SET key = automation_feedback.key RETURNING `+columns, key, userID, rating, message, flag)
		return e, err
	}
	e, err := sqldb.Write(ctx, s.db, "feedback.add", add)
	if errors.Is(err, sqldb.ErrOutcomeUnknown) && ctx.Err() == nil {
		e, err = sqldb.Write(ctx, s.db, "feedback.add", add)
	}
	return e, err
}

// List returns entries, the newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]Entry, error) {
	return sqldb.Read(ctx, s.db, "feedback.list", func(tx *sqldb.Tx) ([]Entry, error) {
		entries := []Entry{}
		query, args := f.query()
		return entries, tx.Select(&entries, query, args...)
	})
}

// query has only the conditions that the filter sets, so that each combination can
// use an index.
func (f Filter) query() (string, []any) {
	conditions := []string{"id < $1"}
	args := []any{cmp.Or(f.Before, 1<<62)}
	where := func(condition string, arg any) {
		args = append(args, arg)
		conditions = append(conditions, fmt.Sprintf(condition, len(args)))
	}
	if f.Open {
		conditions = append(conditions, "done_at IS NULL")
	}
	if f.Stage != "" {
		where("stage = $%d", f.Stage)
	}
	if f.UserID != "" {
		where("user_id = $%d", f.UserID)
	}
	args = append(args, min(max(cmp.Or(f.Limit, 100), 1), MaxPage))
	return fmt.Sprintf(`SELECT %s FROM automation_feedback WHERE %s ORDER BY id DESC LIMIT $%d`,
		columns, strings.Join(conditions, " AND "), len(args)), args
}

// MarkDone records that actor has dealt with an entry. If somebody already has, it
// changes nothing and returns the entry as it is. It returns [ErrNotFound] for an
// unknown id.
func (s *Store) MarkDone(ctx context.Context, id int64, actor string) (Entry, error) {
	return sqldb.Write(ctx, s.db, "feedback.done", func(tx *sqldb.Tx) (Entry, error) {
		var e Entry
		found, err := sqldb.Optional(tx.Get(&e, `UPDATE automation_feedback
			SET done_by = CASE WHEN done_at IS NULL THEN $2 ELSE done_by END, done_at = COALESCE(done_at, {now})
			WHERE id = $1 RETURNING `+columns, id, actor))
		if err == nil && !found {
			err = fmt.Errorf("%w: %d", ErrNotFound, id)
		}
		return e, err
	})
}

// CountByStage sums up all entries by the stage in which they were written. The
// stage with the newest entry comes first.
func (s *Store) CountByStage(ctx context.Context) ([]StageCount, error) {
	return sqldb.Read(ctx, s.db, "feedback.count", func(tx *sqldb.Tx) ([]StageCount, error) {
		var counts []StageCount
		err := tx.Select(&counts, `SELECT stage, count(*) AS count, count(CASE WHEN done_at IS NULL THEN 1 END) AS open,
				count(rating) AS rated, CAST(COALESCE(avg(rating), 0) AS double precision) AS rating
			FROM automation_feedback GROUP BY stage ORDER BY max(id) DESC`)
		return counts, err
	})
}

// Erase deletes all entries of a user. It can be repeated.
func (s *Store) Erase(ctx context.Context, userID string) error {
	_, err := sqldb.Write(ctx, s.db, "feedback.erase", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM automation_feedback WHERE user_id = $1`, userID)
	})
	return err
}
