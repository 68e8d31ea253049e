package replica

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// These limits keep users' failures cheap however many requests fail. Failures beyond
// maxFailures are dropped.
const (
	maxFailures      = 1000             // combinations of user, cause and code in memory
	failuresPerWrite = 100              // rows
	failuresInterval = 30 * time.Second // between two writes
	// slowReport is the duration from which a report shows that the database is slow.
	// Failures are then not written until a report is faster.
	slowReport = 250 * time.Millisecond
)

// Failure counts the requests of a user that ended with one cause and code.
type Failure struct {
	UserID, Cause, Code string
	BeganAt, FailedAt   time.Time // of the first and the last request
	Requests            int64
}

type failureKey struct{ userID, cause, code string }

// Failures holds the users' failures that are not written yet. It is safe for
// concurrent use.
type Failures struct {
	mu   sync.Mutex
	list map[failureKey]*Failure
}

// NewFailures returns an empty Failures.
func NewFailures() *Failures { return &Failures{list: map[failureKey]*Failure{}} }

// Add adds new failures, or failures that could not be written.
func (f *Failures) Add(failures ...Failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range failures {
		key := failureKey{a.UserID, a.Cause, a.Code}
		sum := f.list[key]
		switch {
		case sum != nil:
			sum.Requests += a.Requests
			if a.FailedAt.After(sum.FailedAt) {
				sum.FailedAt = a.FailedAt
			}
			if a.BeganAt.Before(sum.BeganAt) {
				sum.BeganAt = a.BeganAt
			}
		case len(f.list) < maxFailures:
			f.list[key] = &a
		}
	}
}

// Erase removes the failures of a user.
func (f *Failures) Erase(userID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.list {
		if key.userID == userID {
			delete(f.list, key)
		}
	}
}

// take removes and returns the latest failures, at most failuresPerWrite.
func (f *Failures) take() []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]Failure, 0, len(f.list))
	for _, a := range f.list {
		list = append(list, *a)
	}
	slices.SortFunc(list, func(a, b Failure) int { return b.FailedAt.Compare(a.FailedAt) })
	list = list[:min(len(list), failuresPerWrite)]
	for _, a := range list {
		delete(f.list, failureKey{a.UserID, a.Cause, a.Code})
	}
	// All replicas lock the rows in the same order, which prevents deadlocks.
	slices.SortFunc(list, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(a.UserID, b.UserID), cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Code, b.Code))
	})
	return list
}

// addFailures adds failures to the rows of their users. now is the current time of the
// clock that their times come from. A row without a failure for a day starts again at 0.
func addFailures(tx *sqldb.Tx, now time.Time, list []Failure) error {
	const isExpired = `f.failed_at < {in -86400}`
	for len(list) > 0 {
		n := 1 << (bits.Len(uint(len(list))) - 1) // a power of two, so that there are few different statements
		var args []any
		rows := make([]string, n)
		for i, f := range list[:n] {
			at := len(args)
			rows[i] = fmt.Sprintf("($%d, $%d, $%d, {in -$%d}, {in -$%d}, $%d)", at+1, at+2, at+3, at+4, at+5, at+6)
			args = append(args, f.UserID, f.Cause, f.Code, now.Sub(f.BeganAt).Seconds(), now.Sub(f.FailedAt).Seconds(), f.Requests)
		}
		if _, err := tx.Exec(`INSERT INTO automation_user_failures AS f (user_id, cause, code, began_at, failed_at, requests) VALUES `+strings.Join(rows, ", ")+`
ON CONFLICT (user_id, cause, code) DO UPDATE SET
	began_at = CASE WHEN `+isExpired+` THEN excluded.began_at ELSE f.began_at END,
	failed_at = CASE WHEN f.failed_at > excluded.failed_at THEN f.failed_at ELSE excluded.failed_at END,
	requests = excluded.requests + CASE WHEN `+isExpired+` THEN 0 ELSE f.requests END`, args...); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
