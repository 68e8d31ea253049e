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

// database is what a Cache reads in these tests, which run in a bubble.
type database struct {
	mu      sync.Mutex
	version int64         // of every user
	took    time.Duration // each read, after it has seen the version
	err     error
	finds   int
	polls   []time.Time
	changes map[string]mark
}

func (db *database) find(ctx context.Context, user string) (record, error) {
	db.mu.Lock()
	db.finds++
	r, err, took := record{Settings{UserID: user, Version: db.version}, mark{version: db.version}}, db.err, db.took
	db.mu.Unlock()
	return r, errors.Join(err, wait(ctx, took))
}

func (db *database) changed(ctx context.Context, since time.Duration, most int) (map[string]mark, error) {
	db.mu.Lock()
	db.polls = append(db.polls, time.Now())
	changes, err, took := db.changes, db.err, db.took
	db.mu.Unlock()
	if since != window || most != burst+1 {
		return nil, fmt.Errorf("asked for %d changes since %v", most, since)
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

// inBubble runs a test with a cache on such a database.
func inBubble(t *testing.T, o CacheOptions, test func(t *testing.T, c *Cache, db *database)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db := &database{version: 1}
		c := NewCache(&Store{}, o)
		c.find, c.changed = db.find, db.changed
		test(t, c, db)
	})
}

func wantVersion(t *testing.T, c *Cache, version int64) {
	t.Helper()
	if s, err := c.Get(t.Context(), "u"); err != nil || s.Version != version {
		t.Errorf("version %d, %v; want %d", s.Version, err, version)
	}
}

func wantFinds(t *testing.T, db *database, n int) {
	t.Helper()
	if db.finds != n {
		t.Errorf("%d reads, want %d", db.finds, n)
	}
}

func TestCallersWhoComeTogetherCauseOneRead(t *testing.T) {
	t.Parallel()
	inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, db *database) {
		db.took = time.Second
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

func TestAReadThatAWriteOvertookIsNotKept(t *testing.T) {
	t.Parallel()
	many := map[string]mark{}
	for i := range burst + 1 {
		many[fmt.Sprint(i)] = mark{version: 1}
	}
	for name, overtake := range map[string]func(c *Cache, db *database) error{
		"a write of our own": func(c *Cache, _ *database) error { c.drop("u"); return nil },
		"another's, seen by a look": func(c *Cache, db *database) error {
			db.changes = map[string]mark{"u": {version: 2}}
			return c.Poll(context.Background())
		},
		"another's among too many to tell": func(c *Cache, db *database) error { db.changes = many; return c.Poll(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, db *database) {
				db.took = time.Second
				var read sync.WaitGroup
				read.Go(func() { wantVersion(t, c, 1) })
				synctest.Wait() // it has seen version 1, and is on its way back
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

func TestOneCallersDeadlineIsNotAnothers(t *testing.T) {
	t.Parallel()
	inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, db *database) {
		db.took = 3 * time.Second / 2
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		shorter, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.Get(short, "u"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who reads: %v", err)
			}
		})
		synctest.Wait()
		for range 5 {
			all.Go(func() { wantVersion(t, c, 1) })
		}
		begun := time.Now()
		if _, err := c.Get(shorter, "u"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second/2 {
			t.Errorf("who waits for another's read: %v after %v", err, time.Since(begun))
		}
		all.Wait()
		wantFinds(t, db, 2)
	})
}

func TestAPanicOfOneReadIsAnErrorForThoseWhoWait(t *testing.T) {
	t.Parallel()
	inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, _ *database) {
		c.find = func(ctx context.Context, _ string) (record, error) {
			_ = wait(ctx, time.Second)
			panic("broken")
		}
		var all sync.WaitGroup
		all.Go(func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is gone")
				}
			}()
			_, _ = c.Get(t.Context(), "u")
		})
		synctest.Wait()
		if _, err := c.Get(t.Context(), "u"); err == nil || errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		all.Wait()
	})
}

func TestWithoutALookAnEntryServesForTwoSeconds(t *testing.T) {
	t.Parallel()
	inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, db *database) {
		wantVersion(t, c, 1)
		db.version = 2
		time.Sleep(2*time.Second - time.Nanosecond)
		wantVersion(t, c, 1)
		time.Sleep(time.Nanosecond)
		wantVersion(t, c, 2)
	})
}

func TestWithLooksAnEntryServesForThirtySecondsUnlessItChanged(t *testing.T) {
	t.Parallel()
	inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, db *database) {
		db.changes = map[string]mark{"u": {version: 1}, "somebody else": {version: 9}}
		look := func() {
			t.Helper()
			if err := c.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 30 {
			wantVersion(t, c, 1)
			look()
			time.Sleep(time.Second)
		}
		wantFinds(t, db, 1)
		look()
		if len(c.entries) != 0 {
			t.Error("the entry is in memory after its lifetime")
		}
		wantVersion(t, c, 1)
		wantFinds(t, db, 2)

		db.version, db.changes = 1, map[string]mark{"u": {version: 1, updatedAt: time.Now()}} // forgotten, and stored anew
		look()
		wantVersion(t, c, 1)
		wantFinds(t, db, 3)
	})
}

func TestWhileTheDatabaseIsAwayAnOldEntryIsBetterThanNone(t *testing.T) {
	t.Parallel()
	inBubble(t, CacheOptions{}, func(t *testing.T, c *Cache, db *database) {
		wantVersion(t, c, 1)
		time.Sleep(time.Hour)
		db.err = ErrUnavailable
		if err := c.Poll(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		wantVersion(t, c, 1)
		wantFinds(t, db, 2) // it was asked first
		if _, err := c.Get(t.Context(), "unknown"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("with no entry: %v", err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Get(cancelled, "u"); !errors.Is(err, context.Canceled) {
			t.Errorf("for who is gone: %v", err)
		}
		db.err = errors.New("permission denied")
		if _, err := c.Get(t.Context(), "u"); !errors.Is(err, db.err) {
			t.Errorf("when the database answers with an error: %v", err)
		}
		db.err = ErrUnavailable
		c.drop("u") // by a write of our own
		if _, err := c.Get(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("what is known to be wrong was served, %v", err)
		}
		db.err, db.version = nil, 2
		wantVersion(t, c, 2)
	})
}

func TestRunLooksEverySecondAndLogsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o := CacheOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	inBubble(t, o, func(t *testing.T, c *Cache, db *database) {
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(30 * time.Second)
		db.set(func() { db.err = ErrUnavailable })
		time.Sleep(30 * time.Second)
		db.set(func() { db.err, db.took = nil, time.Hour }) // frozen
		time.Sleep(30 * time.Second)
		db.set(func() { db.took = 0 })
		time.Sleep(30 * time.Second)
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
			t.Error("replicas would look in step")
		}
		if warned, mended := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); warned != 1 || mended != 1 {
			t.Errorf("%d warnings and %d all-clears in the log, want one of each:\n%s", warned, mended, log.String())
		}
	})
}
