package flags_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

var errUnavailable = errors.New("the database is unavailable")

// unavailable returns a Source that cannot be read.
func unavailable() *table {
	t := tableOf()
	t.err = errUnavailable
	return t
}

// writeFile runs a watcher until it has written the flags to the file.
func writeFile(t *testing.T, path string, list ...*flags.Flag) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := flags.NewWatcher(tableOf(list...), flags.Options{File: path})
		run(t, w)
		if h := w.Health(); h.FileErr != nil || h.FromFile {
			t.Fatalf("health %+v; want a written file", h)
		}
	})
}

// newLogger returns a logger, and a function that counts a text in its log.
func newLogger() (logger *slog.Logger, count func(text string) int) {
	var log bytes.Buffer
	return slog.New(slog.NewTextHandler(&log, nil)), func(text string) int { return strings.Count(log.String(), text) }
}

func TestFile_ServesAfterARestartWithoutTheDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	a := &flags.Flag{
		Name: "a", Enabled: true, EnabledUserIDs: flags.NewIDs("7", "ü"), DisabledUserIDs: flags.NewIDs("9"), Percentage: 1250, Seed: "s", Notice: "n",
		Version: 5, UpdatedAt: time.Date(2026, 11, 23, 6, 0, 0, 123456000, time.UTC), UpdatedBy: "ops",
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		source := tableOf(a, &flags.Flag{Name: "b", Enabled: true, Percentage: 100 * flags.Percent, Version: 2})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			flags.NewWatcher(source, flags.Options{File: path}).Run(ctx)
			close(ended)
		}()
		synctest.Wait()
		cancel()
		<-ended
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Fatalf("the file has mode %v, want 0600", info.Mode())
		}

		time.Sleep(time.Hour)
		logger, count := newLogger()
		source.change(func() { source.err = errUnavailable })
		w := flags.NewWatcher(source, flags.Options{File: path, Logger: logger})
		if err := w.Refresh(t.Context()); !errors.Is(err, errUnavailable) {
			t.Errorf("Refresh returned %v, want %v", err, errUnavailable)
		}
		if diff := cmp.Diff(a, w.Flag("a")); diff != "" {
			t.Errorf("flag a from the file (-want +got):\n%s", diff)
		}
		if d := w.Decide("b", "1"); !d.On || d.Version != 2 {
			t.Errorf("decision about b %+v, want on at version 2", d)
		}
		time.Sleep(time.Minute)
		_ = w.Refresh(t.Context())
		if h := w.Health(); !h.Loaded || !h.FromFile || h.Age != time.Since(start) || !errors.Is(h.Err, errUnavailable) || h.FileErr != nil {
			t.Errorf("health %+v; want flags from the file, of %v", h, start)
		}
		if n := count("flags come from the snapshot file"); n != 1 {
			t.Errorf("the use of the file was logged %d times, want once", n)
		}

		// Once the table can be read, its flags replace those of the file.
		source.change(func() { source.err = nil; delete(source.rows, "b") })
		run(t, w)
		if f := w.Flag("b"); f != nil {
			t.Errorf("the deleted flag b is still there: %+v", f)
		}
		if d := w.Decide("a", "7"); d.Reason != flags.ReasonUserEnabled {
			t.Errorf("decision about a %+v, want ReasonUserEnabled", d)
		}
		if n := count("was=\"version 5"); n != 0 {
			t.Errorf("a change of a was logged %d times, but a is the same in the file and the table", n)
		}
		if h := w.Health(); h.FromFile || h.Age > 2*time.Second || h.Err != nil {
			t.Errorf("health %+v; want flags from the table", h)
		}
		if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte(`"b"`)) {
			t.Errorf("a deleted flag is still in the file: %s, %v", text, err)
		}
	})
}

func TestFile_IsRenewedWithoutChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	synctest.Test(t, func(t *testing.T) {
		source := tableOf(everybody(1))
		run(t, flags.NewWatcher(source, flags.Options{File: path}))
		time.Sleep(100 * time.Minute)
		source.change(func() { source.err = errUnavailable })
		time.Sleep(100 * time.Minute) // without a successful pass, the file keeps its age
		w := flags.NewWatcher(unavailable(), flags.Options{File: path})
		_ = w.Refresh(t.Context())
		if h := w.Health(); h.Age < 100*time.Minute || h.Age > 106*time.Minute {
			t.Errorf("health %+v; want an age of 100 to 106 min", h)
		}
	})
}

// The file is truncated at each byte, and each byte has a flipped bit.
func TestFile_DamagedIsIgnoredAndLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	writeFile(t, path, everybody(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"another text": []byte("hello\n"), "an appended byte": append(bytes.Clone(whole), '\n')}
	for i := range whole {
		damaged["truncated to "+string(whole[:i])] = whole[:i]
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		damaged["a flipped bit: "+string(flipped)] = flipped
	}
	for name, text := range damaged {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		logger, count := newLogger()
		w := flags.NewWatcher(unavailable(), flags.Options{File: path, Logger: logger})
		for range 3 {
			_ = w.Refresh(t.Context())
		}
		if h := w.Health(); h.Loaded || h.FileErr == nil {
			t.Fatalf("%s: health %+v; want no flags and a FileErr", name, h)
		}
		if d := w.Decide("a", "1"); d.Reason != flags.ReasonMissing {
			t.Fatalf("%s: decision %+v, want ReasonMissing", name, d)
		}
		if n := count("is ignored"); n != 1 {
			t.Fatalf("%s: logged %d times, want once", name, n)
		}
	}
	writeFile(t, path, everybody(1))
	if again, err := os.ReadFile(path); err != nil || len(again) != len(whole) {
		t.Errorf("the damaged file was not replaced: %s, %v", again, err)
	}
}

func TestFile_MayBeMissing(t *testing.T) {
	logger, count := newLogger()
	w := flags.NewWatcher(unavailable(), flags.Options{File: filepath.Join(t.TempDir(), "none"), Logger: logger})
	_ = w.Refresh(t.Context())
	if h := w.Health(); h.Loaded || h.FileErr != nil {
		t.Errorf("health %+v; want no flags and no FileErr", h)
	}
	if n := count("snapshot file"); n != 0 {
		t.Errorf("the missing file was logged %d times, want 0", n)
	}
}

func TestFile_DoesNotFollowASymbolicLink(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "flags"), filepath.Join(dir, "target")
	writeFile(t, target, everybody(1))
	before, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	w := flags.NewWatcher(unavailable(), flags.Options{File: path})
	_ = w.Refresh(t.Context())
	if h := w.Health(); h.Loaded || h.FileErr == nil {
		t.Errorf("reading follows the link: health %+v", h)
	}
	writeFile(t, path, nobody(2))
	if after, err := os.ReadFile(target); err != nil || !bytes.Equal(after, before) {
		t.Errorf("writing follows the link: the target is %s, %v", after, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the path has mode %v, want a regular file of mode 0600", info.Mode())
	}
}

func TestFile_UnusablePathAffectsNoDecision(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	unreadable := filepath.Join(dir, "unreadable")
	nonEmpty := filepath.Join(dir, "nonempty")
	if err := errors.Join(os.WriteFile(plain, nil, 0o600), os.Mkdir(unreadable, 0o000), os.MkdirAll(filepath.Join(nonEmpty, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{
		"in a missing directory":  filepath.Join(dir, "none", "flags"),
		"below a file":            filepath.Join(plain, "flags"),
		"a directory":             nonEmpty,
		"a name that is too long": filepath.Join(dir, strings.Repeat("x", 300)),
	}
	if os.Getuid() != 0 { // root can read any directory
		paths["in an unreadable directory"] = filepath.Join(unreadable, "flags")
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, count := newLogger()
				source := unavailable()
				w := flags.NewWatcher(source, flags.Options{File: path, Logger: logger})
				run(t, w)
				for version := range int64(5) {
					source.change(func() { source.err, source.rows["a"] = nil, everybody(version+1) })
					time.Sleep(2 * time.Second)
					synctest.Wait()
					if d := w.Decide("a", "1"); !d.On || d.Version != version+1 {
						t.Fatalf("decision %+v, want on at version %d", d, version+1)
					}
				}
				if h := w.Health(); h.FileErr == nil || h.Err != nil {
					t.Errorf("health %+v; want a FileErr alone", h)
				}
				if n := count("is ignored") + count("cannot be written"); n != 1 {
					t.Errorf("the problem was logged %d times, want once", n)
				}
			})
		})
	}
}

func TestFile_LogsThatItIsWrittenAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		logger, count := newLogger()
		source := tableOf(everybody(1))
		w := flags.NewWatcher(source, flags.Options{File: filepath.Join(dir, "flags"), Logger: logger})
		run(t, w)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if h, n := w.Health(), count("is written again"); h.FileErr != nil || n != 1 {
			t.Errorf("health %+v, logged %d times; want no FileErr, logged once", h, n)
		}
	})
}
