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

// database is what a cache reads in these tests, which run under synctest.
type database struct {
	mu      sync.Mutex
	version int64         // of every user
	took    time.Duration // by each read, after it has read the version
	err     error
	finds   int
	polls   []time.Time
	changes map[string]rowVersion
}

func (db *database) find(ctx context.Context, user string) (record, error) {
	db.mu.Lock()
	db.finds++
	r, err, took := record{Settings{UserID: user, Version: db.version}, rowVersion{version: db.version}}, db.err, db.took
	db.mu.Unlock()
	return r, errors.Join(err, wait(ctx, took))
}

func (db *database) changed(ctx context.Context, since time.Duration, limit int) (map[string]rowVersion, error) {
	db.mu.Lock()
	db.polls = append(db.polls, time.Now())
	changes, err, took := db.changes, db.err, db.took
	db.mu.Unlock()
	if since < commitLag || since > maxAge+commitLag || limit != maxChanges+1 {
		return nil, fmt.Errorf("asked for %d changes since %v", limit, since)
	}
	return changes, errors.Join(err, wait(ctx, took))
}

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

func (db *database) set(f func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	f()
}

// inBubble runs a test under synctest, with a cache on a fake database.
func inBubble(t *testing.T, o StoreOptions, test func(t *testing.T, c *cache, db *database)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db := &database{version: 1}
		c := newCache(&Store{}, o.withDefaults())
		c.find, c.changed = db.find, db.changed
		test(t, c, db)
	})
}

func wantVersion(t *testing.T, c *cache, version int64) {
	t.Helper()
	if s, err := c.get(t.Context(), "u"); err != nil || s.Version != version {
		t.Errorf("version %d, %v; want %d", s.Version, err, version)
	}
}

func wantFinds(t *testing.T, db *database, n int) {
	t.Helper()
	if db.finds != n {
		t.Errorf("%d reads, want %d", db.finds, n)
	}
}

func TestCache_CallersWhoComeTogetherCauseOneRead(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
		db.took = readTimeout / 2
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

func TestCache_KeepsNoReadThatAWriteOvertook(t *testing.T) {
	t.Parallel()
	many := map[string]rowVersion{}
	for i := range maxChanges + 1 {
		many[fmt.Sprint(i)] = rowVersion{version: 1}
	}
	for name, overtake := range map[string]func(c *cache, db *database) error{
		"a write of our own": func(c *cache, _ *database) error { c.invalidate("u"); return nil },
		"another's, seen by a poll": func(c *cache, db *database) error {
			db.changes = map[string]rowVersion{"u": {version: 2}}
			return c.poll(context.Background())
		},
		"another's among too many changes": func(c *cache, db *database) error { db.changes = many; return c.poll(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
				db.took = readTimeout / 2
				var read sync.WaitGroup
				read.Go(func() { wantVersion(t, c, 1) })
				synctest.Wait() // it has read version 1 and has not returned
				db.set(func() { db.version, db.took = 2, 0 })
				if err := overtake(c, db); err != nil {
					t.Fatal(err)
				}
				wantVersion(t, c, 2) // does not join the old read
				read.Wait()
				wantVersion(t, c, 2)
				wantFinds(t, db, 2)
			})
		})
	}
}

func TestCache_OneCallersDeadlineIsNotAnothers(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
		db.took = 2 * readTimeout / 5
		short, cancel := context.WithTimeout(t.Context(), readTimeout/3)
		defer cancel()
		shorter, cancel := context.WithTimeout(t.Context(), readTimeout/4)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.get(short, "u"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the caller that reads: %v", err)
			}
		})
		synctest.Wait()
		for range 5 {
			all.Go(func() { wantVersion(t, c, 1) })
		}
		begun := time.Now()
		if _, err := c.get(shorter, "u"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != readTimeout/4 {
			t.Errorf("a caller that waits for another's read: %v after %v", err, time.Since(begun))
		}
		all.Wait()
		wantFinds(t, db, 2)
	})
}

func TestCache_PanicOfOneReadIsAnErrorForThoseWhoWait(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, _ *database) {
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
			t.Error(err)
		}
		all.Wait()
	})
}

func TestCache_ServesUnconfirmedEntryFor2s(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
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
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
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
		wantVersion(t, c, 1) // too old to be used, and read again
		wantFinds(t, db, 2)

		db.version, db.changes = 1, map[string]rowVersion{"u": {version: 1, updatedAt: time.Now()}} // erased, and stored again
		poll()
		wantVersion(t, c, 1)
		wantFinds(t, db, 3)
	})
}

func TestCache_ServesWhatItKnowsForTenMinutesWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
		wantVersion(t, c, 1)
		for range 9 { // idle, and polls that succeed
			time.Sleep(time.Minute)
			if err := c.poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		db.err = ErrUnavailable
		if err := c.poll(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		wantVersion(t, c, 1)
		wantFinds(t, db, 2) // the database is tried before the old entry is served
		if s, err := c.get(t.Context(), "unknown"); !errors.Is(err, ErrUnavailable) || s != (Settings{}) {
			t.Errorf("with no entry: %+v, %v", s, err)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(failureTTL)
		if _, err := c.get(canceled, "u"); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrUnavailable) {
			t.Errorf("for a caller who has left: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := c.get(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("read more than ten minutes ago: %v", err)
		}
		db.err, db.version = nil, 2
		time.Sleep(failureTTL)
		wantVersion(t, c, 2)
		db.err = errors.New("permission denied")
		time.Sleep(maxAge)
		if _, err := c.get(t.Context(), "u"); !errors.Is(err, db.err) {
			t.Errorf("when the database answers with an error: %v", err)
		}
		db.err = ErrUnavailable
		c.invalidate("u") // by a write of our own
		if _, err := c.get(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("an invalidated entry was served, %v", err)
		}
	})
}

func TestCache_OneRequestWaitsForADeadDatabaseAndTheOthersDoNot(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
		wantVersion(t, c, 1)
		time.Sleep(time.Minute)
		db.set(func() { db.took, db.finds = time.Hour, 0 }) // frozen
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			begun := time.Now()
			wantVersion(t, c, 1)
			if took := time.Since(begun); took != readTimeout {
				t.Errorf("the first request waited %v", took)
			}
		}()
		<-ended
		// Requests of many users for 30 s, 100 a second.
		var all sync.WaitGroup
		var mu sync.Mutex
		var waited, longest time.Duration
		for i := range 3000 {
			all.Go(func() {
				begun := time.Now()
				user := fmt.Sprint("user ", i)
				if i%2 == 0 {
					user = "u"
				}
				s, err := c.get(t.Context(), user)
				if user == "u" && (err != nil || s.Version != 1) {
					t.Errorf("a user who is known: %+v, %v", s, err)
				}
				if user != "u" && !errors.Is(err, ErrUnavailable) {
					t.Errorf("a user who is not known: %+v, %v", s, err)
				}
				mu.Lock()
				defer mu.Unlock()
				waited += time.Since(begun)
				longest = max(longest, time.Since(begun))
			})
			time.Sleep(10 * time.Millisecond)
		}
		all.Wait()
		// A read fails after readTimeout, then none is tried for failureTTL.
		if db.finds > 22 || longest > readTimeout || waited > time.Duration(db.finds)*readTimeout {
			t.Errorf("%d reads in 30 s, the longest wait was %v", db.finds, longest)
		}
		t.Logf("3,000 requests in 30 s: %d reads, %v waited in all", db.finds, waited)
		db.set(func() { db.took = 0 })
		time.Sleep(failureTTL)
		wantVersion(t, c, 1)
		if _, err := c.get(t.Context(), "another"); err != nil {
			t.Errorf("the database is back: %v", err)
		}
	})
}

func TestCache_PollLooksBackToTheLastThatSucceeded(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, _ *database) {
		var since time.Duration
		var failed error
		c.changed = func(_ context.Context, d time.Duration, _ int) (map[string]rowVersion, error) {
			since = d
			return nil, failed
		}
		poll := func(want time.Duration) {
			t.Helper()
			_ = c.poll(t.Context())
			if since != want {
				t.Errorf("looked back %v, want %v", since, want)
			}
		}
		poll(maxAge + commitLag) // the first
		time.Sleep(time.Second)
		poll(time.Second + commitLag)
		failed = ErrUnavailable
		time.Sleep(time.Second)
		poll(time.Second + commitLag)
		time.Sleep(9 * time.Second)
		failed = nil
		poll(10*time.Second + commitLag)
		time.Sleep(time.Hour)
		poll(maxAge + commitLag)
	})
}

func TestCache_RunPollsEverySecondAndLogsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o := StoreOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	inBubble(t, o, func(t *testing.T, c *cache, db *database) {
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { c.run(ctx) })
		inUse := func() { // for half a minute
			for range 6 {
				_, _ = c.get(ctx, "u")
				time.Sleep(5 * time.Second)
			}
		}
		inUse()
		db.set(func() { db.err = ErrUnavailable })
		inUse()
		db.set(func() { db.err, db.took = nil, time.Hour }) // frozen
		inUse()
		db.set(func() { db.took = 0 })
		inUse()
		stop()
		run.Wait()

		var pauses int
		for i, at := range db.polls[1:] {
			if p := at.Sub(db.polls[i]); p < 900*time.Millisecond || p > 3100*time.Millisecond || p > 1100*time.Millisecond && p < 2900*time.Millisecond {
				t.Errorf("a pause of %v", p)
			} else if p != time.Second {
				pauses++
			}
		}
		if pauses == 0 {
			t.Error("replicas would poll in step")
		}
		if warned, recovered := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); warned != 1 || recovered != 1 {
			t.Errorf("%d warnings and %d recoveries in the log, want one of each:\n%s", warned, recovered, log.String())
		}
	})
}

func TestCache_RunDoesNotPollWhileNobodyAsks(t *testing.T) {
	t.Parallel()
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, db *database) {
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { c.run(ctx) })
		polls := func() (n int) { db.set(func() { n = len(db.polls) }); return n }
		time.Sleep(time.Hour)
		if n := polls(); n != 0 {
			t.Errorf("%d polls without an entry", n)
		}
		if _, err := c.get(ctx, "u"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := polls(); n < 26 || n > 35 {
			t.Errorf("%d polls after one entry, want them for the 30 s for which it serves", n)
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
	inBubble(t, StoreOptions{}, func(t *testing.T, c *cache, _ *database) {
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
			t.Errorf("%d entries are left", n)
		}
	})
}
