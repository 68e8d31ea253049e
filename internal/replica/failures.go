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

// What a process notes of its users' failures is bounded, however many requests
// fail: what exceeds it is not noted.
const (
	maxFailures      = 1000             // users, causes and codes in memory
	failuresPerWrite = 100              // rows
	failuresInterval = 30 * time.Second // between two writes
	// slowReport is how long a report may take until the database counts as slow:
	// it is spared the failures then, until a report is quick again.
	slowReport = 250 * time.Millisecond
)

// Failure counts the requests of a user that ended with one cause and code.
type Failure struct {
	UserID, Cause, Code string
	BeganAt, FailedAt   time.Time // the first and the last
	Requests            int64
}

type failureKey struct{ userID, cause, code string }

// Failures has the users' failures that are not written yet. It is safe for
// concurrent use.
type Failures struct {
	mu   sync.Mutex
	list map[failureKey]*Failure
}

// NewFailures returns a Failures without any.
func NewFailures() *Failures { return &Failures{list: map[failureKey]*Failure{}} }

// Add adds a failure, or those that could not be written.
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

// Erase removes those of a user.
func (f *Failures) Erase(userID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.list {
		if key.userID == userID {
			delete(f.list, key)
		}
	}
}

// take removes and returns the latest ones, as many as one write has.
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
	// All replicas take the rows in one order, so that none waits for another in
	// a circle.
	slices.SortFunc(list, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(a.UserID, b.UserID), cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Code, b.Code))
	})
	return list
}

// addFailures adds failures to the rows of their users; now is the time by the
// clock that theirs are of. One after a day without any begins to count again.
func addFailures(tx *sqldb.Tx, now time.Time, list []Failure) error {
	const isOld = `f.failed_at < {in -86400}`
	for len(list) > 0 {
		n := 1 << (bits.Len(uint(len(list))) - 1) // powers of two, so that there are few different statements
		var args []any
		rows := make([]string, n)
		for i, f := range list[:n] {
			at := len(args)
			rows[i] = fmt.Sprintf("($%d, $%d, $%d, {in -$%d}, {in -$%d}, $%d)", at+1, at+2, at+3, at+4, at+5, at+6)
			args = append(args, f.UserID, f.Cause, f.Code, now.Sub(f.BeganAt).Seconds(), now.Sub(f.FailedAt).Seconds(), f.Requests)
		}
		if _, err := tx.Exec(`INSERT INTO automation_user_failures AS f (user_id, cause, code, began_at, failed_at, requests) VALUES `+strings.Join(rows, ", ")+`
ON CONFLICT (user_id, cause, code) DO UPDATE SET
	began_at = CASE WHEN `+isOld+` THEN excluded.began_at ELSE f.began_at END,
	failed_at = CASE WHEN f.failed_at > excluded.failed_at THEN f.failed_at ELSE excluded.failed_at END,
	requests = excluded.requests + CASE WHEN `+isOld+` THEN 0 ELSE f.requests END`, args...); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
