package settings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDatabase is the database of a cache in these tests, which run under
// synctest.
type fakeDatabase struct {
	mu      sync.Mutex
	version int64         // of every user's settings
	delay   time.Duration // of each answer, after the version has been read
	err     error         // of each answer
	finds   int           // calls of find
	polls   []time.Time   // calls of changed
	changes map[string]rowVersion
}

func (db *fakeDatabase) find(ctx context.Context, user string) (record, error) {
	db.mu.Lock()
	db.finds++
	r, err, delay := record{Settings{UserID: user, Version: db.version}, rowVersion{version: db.version}}, db.err, db.delay
	db.mu.Unlock()
	return r, errors.Join(err, wait(ctx, delay))
}

func (db *fakeDatabase) changed(ctx context.Context, period time.Duration, limit int) (map[string]rowVersion, error) {
	db.mu.Lock()
	db.polls = append(db.polls, time.Now())
	changes, err, delay := db.changes, db.err, db.delay
	db.mu.Unlock()
	if period < commitLag || period > maxAge+commitLag || limit != maxChanges+1 {
		return nil, fmt.Errorf("polled for %d changes of the last %v", limit, period)
	}
	return changes, errors.Join(err, wait(ctx, delay))
}

// wait waits for d. If ctx ends before, it returns ErrUnavailable.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	return nil
}

// set calls f under the lock.
func (db *fakeDatabase) set(f func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	f()
}

// inBubble runs a test under synctest, with a cache on a fake database.
func inBubble(t *testing.T, o StoreOptions, test func(t *testing.T, c *cache, db *fakeDatabase)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db := &fakeDatabase{version: 1}
		c := newCache(&Store{}, o.withDefaults())
		c.find, c.changed = db.find, db.changed
		test(t, c, db)
	})
}

func wantVersion(t *testing.T, c *cache, version int64) {
	t.Helper()
	if s, err := c.get(t.Context(), "u"); err != nil || s.Version != version {
		t.Errorf("get returned version %d, error %v; want version %d", s.Version, err, version)
	}
}

func wantFinds(t *testing.T, db *fakeDatabase, n int) {
	t.Helper()
	if db.finds != n {
		t.Errorf("%d reads of the database, want %d", db.finds, n)
	}
}

func TestCache_ConcurrentCallersShareOneRead(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		db.delay = readTimeout / 2
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { wantVersion(t, c, 1) })
		}
		all.Wait()
		wantFinds(t, db, 1)
		wantVersion(t, c, 1)
		wantFinds(t, db, 1)
	})
}

func TestCache_DoesNotKeepAReadThatAWriteOvertook(t *testing.T) {
	t.Parallel()
	many := map[string]rowVersion{}
	for i := range maxChanges + 1 {
		many[fmt.Sprint(i)] = rowVersion{version: 1}
	}
	for name, overtake := range map[string]func(c *cache, db *fakeDatabase) error{
		"a write through the same store": func(c *cache, _ *fakeDatabase) error { c.invalidate("u"); return nil },
		"a write of another replica that a poll finds": func(c *cache, db *fakeDatabase) error {
			db.changes = map[string]rowVersion{"u": {version: 2}}
			return c.poll(context.Background())
		},
		"more changes than a poll reads": func(c *cache, db *fakeDatabase) error {
			db.changes = many
			return c.poll(context.Background())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
				db.delay = readTimeout / 2
				var read sync.WaitGroup
				read.Go(func() { wantVersion(t, c, 1) })
				synctest.Wait() // the read has version 1 and has not returned
				db.set(func() { db.version, db.delay = 2, 0 })
				if err := overtake(c, db); err != nil {
					t.Fatal(err)
				}
				wantVersion(t, c, 2) // a new read, which does not join the old one
				read.Wait()
				wantVersion(t, c, 2)
				wantFinds(t, db, 2)
			})
		})
	}
}

func TestCache_DeadlineOfOneCallerDoesNotAffectOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		db.delay = 2 * readTimeout / 5
		short, cancel := context.WithTimeout(t.Context(), readTimeout/3)
		defer cancel()
		shorter, cancel := context.WithTimeout(t.Context(), readTimeout/4)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.get(short, "u"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the caller that reads got %v, want its DeadlineExceeded", err)
			}
		})
		synctest.Wait()
		for range 5 {
			all.Go(func() { wantVersion(t, c, 1) })
		}
		start := time.Now()
		if _, err := c.get(shorter, "u"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != readTimeout/4 {
			t.Errorf("a caller that waits for another's read got %v after %v, want its DeadlineExceeded after %v", err, time.Since(start), readTimeout/4)
		}
		all.Wait()
		wantFinds(t, db, 2)
	})
}

func TestCache_PanicOfAReadIsAnErrorForTheWaitingCallers(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, _ *fakeDatabase) {
		c.find = func(ctx context.Context, _ string) (record, error) {
			_ = wait(ctx, readTimeout/2)
			panic("broken")
		}
		var all sync.WaitGroup
		all.Go(func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_, _ = c.get(t.Context(), "u")
		})
		synctest.Wait()
		if _, err := c.get(t.Context(), "u"); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("the waiting caller got %v, want an error other than ErrUnavailable", err)
		}
		all.Wait()
	})
}

func TestCache_ServesUnconfirmedEntryFor2s(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		wantVersion(t, c, 1)
		db.version = 2
		time.Sleep(2*time.Second - time.Nanosecond)
		wantVersion(t, c, 1)
		time.Sleep(time.Nanosecond)
		wantVersion(t, c, 2)
	})
}

func TestCache_ServesUnchangedEntryFor30s(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		db.changes = map[string]rowVersion{"u": {version: 1}, "somebody else": {version: 9}}
		poll := func() {
			t.Helper()
			if err := c.poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 30 {
			wantVersion(t, c, 1)
			poll()
			time.Sleep(time.Second)
		}
		wantFinds(t, db, 1)
		poll()
		wantVersion(t, c, 1) // too old: read again
		wantFinds(t, db, 2)

		// The user was erased and stored again: the version is the same.
		db.changes = map[string]rowVersion{"u": {version: 1, updatedAt: time.Now()}}
		poll()
		wantVersion(t, c, 1)
		wantFinds(t, db, 3)
	})
}

func TestCache_ServesAnEntryFor10MinDuringAnOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		wantVersion(t, c, 1)
		for range 9 { // successful polls, but no reads
			time.Sleep(time.Minute)
			if err := c.poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		db.err = ErrUnavailable
		if err := c.poll(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("poll returned %v, want ErrUnavailable", err)
		}
		wantVersion(t, c, 1)
		wantFinds(t, db, 2) // the database is tried before the old entry is used
		if s, err := c.get(t.Context(), "unknown"); !errors.Is(err, ErrUnavailable) || s != (Settings{}) {
			t.Errorf("without an entry: %+v, %v; want no settings and ErrUnavailable", s, err)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(failureTTL)
		if _, err := c.get(canceled, "u"); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrUnavailable) {
			t.Errorf("with a cancelled context: error %v, want context.Canceled or ErrUnavailable", err)
		}
		time.Sleep(time.Minute)
		if _, err := c.get(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("with an entry older than ten minutes: error %v, want ErrUnavailable", err)
		}
		db.err, db.version = nil, 2
		time.Sleep(failureTTL)
		wantVersion(t, c, 2)
		db.err = errors.New("permission denied")
		time.Sleep(maxAge)
		if _, err := c.get(t.Context(), "u"); !errors.Is(err, db.err) {
			t.Errorf("when the database answers with an error: error %v, want %v", err, db.err)
		}
		db.err = ErrUnavailable
		c.invalidate("u")
		if _, err := c.get(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after invalidate: error %v, want ErrUnavailable", err)
		}
	})
}

func TestCache_OnlyOneRequestAtATimeWaitsForAFrozenDatabase(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		wantVersion(t, c, 1)
		time.Sleep(time.Minute)
		db.set(func() { db.delay, db.finds = time.Hour, 0 }) // frozen
		start := time.Now()
		wantVersion(t, c, 1)
		if took := time.Since(start); took != readTimeout {
			t.Errorf("the first request waited %v, want %v", took, readTimeout)
		}
		// Requests of many users for 30 s, 100 a second.
		var all sync.WaitGroup
		var mu sync.Mutex
		var waited, longest time.Duration
		for i := range 3000 {
			all.Go(func() {
				start := time.Now()
				if i%2 == 0 {
					wantVersion(t, c, 1)
				} else if _, err := c.get(t.Context(), fmt.Sprint("user ", i)); !errors.Is(err, ErrUnavailable) {
					t.Errorf("a user who is not cached: error %v, want ErrUnavailable", err)
				}
				mu.Lock()
				defer mu.Unlock()
				waited += time.Since(start)
				longest = max(longest, time.Since(start))
			})
			time.Sleep(10 * time.Millisecond)
		}
		all.Wait()
		// A read fails after readTimeout, then none is tried for failureTTL.
		if db.finds > 22 || longest > readTimeout || waited > time.Duration(db.finds)*readTimeout {
			t.Errorf("%d reads in 30 s, the longest wait was %v, all waits together %v; want at most 22 reads, and one request that waits for each", db.finds, longest, waited)
		}
		t.Logf("3,000 requests in 30 s: %d reads, all waits together %v", db.finds, waited)
		db.set(func() { db.delay = 0 })
		time.Sleep(failureTTL)
		wantVersion(t, c, 1)
		if _, err := c.get(t.Context(), "another"); err != nil {
			t.Errorf("after the outage get returned %v", err)
		}
	})
}

func TestCache_PollReadsTheChangesSinceTheLastSuccessfulPoll(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, _ *fakeDatabase) {
		var period time.Duration
		var pollErr error
		c.changed = func(_ context.Context, d time.Duration, _ int) (map[string]rowVersion, error) {
			period = d
			return nil, pollErr
		}
		poll := func(want time.Duration) {
			t.Helper()
			_ = c.poll(t.Context())
			if period != want {
				t.Errorf("the poll read the changes of the last %v, want %v", period, want)
			}
		}
		poll(maxAge + commitLag) // the first poll
		time.Sleep(time.Second)
		poll(time.Second + commitLag)
		pollErr = ErrUnavailable
		time.Sleep(time.Second)
		poll(time.Second + commitLag)
		time.Sleep(9 * time.Second)
		pollErr = nil
		poll(10*time.Second + commitLag)
		time.Sleep(time.Hour)
		poll(maxAge + commitLag)
	})
}

func TestCache_RunPollsEverySecondAndLogsAnOutageOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o := StoreOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	inBubble(t, o, func(t *testing.T, c *cache, db *fakeDatabase) {
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { c.run(ctx) })
		useFor30s := func() {
			for range 6 {
				_, _ = c.get(ctx, "u")
				time.Sleep(5 * time.Second)
			}
		}
		useFor30s()
		db.set(func() { db.err = ErrUnavailable })
		useFor30s()
		db.set(func() { db.err, db.delay = nil, time.Hour }) // frozen
		useFor30s()
		db.set(func() { db.delay = 0 })
		useFor30s()
		stop()
		run.Wait()

		isJittered := false
		for i, at := range db.polls[1:] {
			pause := at.Sub(db.polls[i])
			afterPoll := (pause - time.Second).Abs() <= 100*time.Millisecond
			afterTimeout := (pause - time.Second - maxStale).Abs() <= 100*time.Millisecond
			if !afterPoll && !afterTimeout {
				t.Errorf("a pause of %v between two polls, want 1 s, or 3 s after a poll that timed out, plus or minus 0.1 s", pause)
			}
			isJittered = isJittered || pause != time.Second
		}
		if !isJittered {
			t.Error("all pauses are exactly 1 s: replicas would poll in step")
		}
		if warned, recovered := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); warned != 1 || recovered != 1 {
			t.Errorf("%d warnings and %d recoveries in the log, want one of each:\n%s", warned, recovered, log.String())
		}
	})
}

func TestCache_RunDoesNotPollWithoutUsableEntries(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *fakeDatabase) {
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { c.run(ctx) })
		countPolls := func() (n int) { db.set(func() { n = len(db.polls) }); return n }
		time.Sleep(time.Hour)
		if n := countPolls(); n != 0 {
			t.Errorf("%d polls without an entry, want 0", n)
		}
		if _, err := c.get(ctx, "u"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := countPolls(); n < 26 || n > 35 {
			t.Errorf("%d polls after one read, want about 30: one a second while the entry may be used", n)
		}
		stop()
		run.Wait()
		if n := len(c.entries); n != 0 {
			t.Errorf("%d entries after an hour, want none", n)
		}
	})
}

func TestCache_RemovesEntriesAfterTenMinutes(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, _ *fakeDatabase) {
		for i := range 3 * sweepBatch {
			if _, err := c.get(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(maxOutageAge)
		for range 100 {
			if err := c.poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(c.entries); n > sweepBatch/10 {
			t.Errorf("%d entries are left after 100 sweeps, want at most %d", n, sweepBatch/10)
		}
	})
}
