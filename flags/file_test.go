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

var errAway = errors.New("the database is away")

func away() *table {
	t := tableOf()
	t.err = errAway
	return t
}

// wrote has a watcher keep the flags in a file, and ends it.
func wrote(t *testing.T, path string, list ...*flags.Flag) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := flags.NewWatcher(tableOf(list...), flags.Options{File: path})
		running(t, w)
		if h := w.Health(); h.FileErr != nil || h.FromFile {
			t.Fatalf("%+v", h)
		}
	})
}

// logging is a logger, and how often it was told a thing.
func logging() (*slog.Logger, func(what string) int) {
	var text bytes.Buffer
	return slog.New(slog.NewTextHandler(&text, nil)), func(what string) int { return strings.Count(text.String(), what) }
}

func TestFile_ServesARestartWithoutTheDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	a := &flags.Flag{
		Name: "a", Enabled: true, EnabledUserIDs: flags.NewIDs("7", "ü"), DisabledUserIDs: flags.NewIDs("9"), Percentage: 1250, Seed: "s", Notice: "n",
		Version: 5, UpdatedAt: time.Date(2026, 11, 23, 6, 0, 0, 123456000, time.UTC), UpdatedBy: "ops",
	}
	synctest.Test(t, func(t *testing.T) {
		wroteAt := time.Now()
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
		if err != nil || info.Mode() != 0o600 {
			t.Fatalf("%v, %v", info.Mode(), err)
		}

		time.Sleep(time.Hour)
		log, said := logging()
		source.change(func() { source.err = errAway })
		w := flags.NewWatcher(source, flags.Options{File: path, Logger: log})
		if err := w.Refresh(t.Context()); !errors.Is(err, errAway) {
			t.Error(err)
		}
		if diff := cmp.Diff(a, w.Flag("a")); diff != "" {
			t.Error(diff)
		}
		if d := w.Decide("b", "1"); !d.On || d.Version != 2 {
			t.Errorf("%+v", d)
		}
		time.Sleep(time.Minute)
		_ = w.Refresh(t.Context())
		if h := w.Health(); !h.Loaded || !h.FromFile || h.Age != time.Since(wroteAt) || !errors.Is(h.Err, errAway) || h.FileErr != nil {
			t.Errorf("%+v", h)
		}
		if n := said("those of the snapshot file"); n != 1 {
			t.Errorf("said %d times", n)
		}

		// Back again, what the table says holds at once, and is kept.
		source.change(func() { source.err = nil; delete(source.rows, "b") })
		running(t, w)
		if w.Flag("b") != nil || w.Decide("a", "7").Reason != flags.ReasonUserEnabled || said("was=\"version 5") != 0 {
			t.Errorf("%+v, said the same flag is another %d times", w.Flag("b"), said("was=\"version 5"))
		}
		if h := w.Health(); h.FromFile || h.Age > 2*time.Second || h.Err != nil {
			t.Errorf("%+v", h)
		}
		if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte(`"b"`)) {
			t.Errorf("a deleted flag is still in the file: %s, %v", text, err)
		}
	})
}

func TestFile_AgeStaysNearTheTruthWithoutChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	synctest.Test(t, func(t *testing.T) {
		source := tableOf(everybody(1))
		running(t, flags.NewWatcher(source, flags.Options{File: path}))
		time.Sleep(100 * time.Minute)
		source.change(func() { source.err = errAway })
		time.Sleep(100 * time.Minute) // what is in the file is no newer than the last good pass
		w := flags.NewWatcher(away(), flags.Options{File: path})
		_ = w.Refresh(t.Context())
		if h := w.Health(); h.Age < 100*time.Minute || h.Age > 106*time.Minute {
			t.Errorf("%+v", h)
		}
	})
}

// A file that is not whole: cut off anywhere, or with any bit turned.
func TestFile_NotWholeIsIgnoredAndLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	wrote(t, path, everybody(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string][]byte{"another text": []byte("hello\n"), "more": append(bytes.Clone(whole), '\n')}
	for i := range whole {
		broken["cut off after "+string(whole[:i])] = whole[:i]
		turned := bytes.Clone(whole)
		turned[i] ^= 1 << (i % 8)
		broken["turned "+string(turned)] = turned
	}
	for name, text := range broken {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		log, said := logging()
		source := away()
		w := flags.NewWatcher(source, flags.Options{File: path, Logger: log})
		for range 3 {
			_ = w.Refresh(t.Context())
		}
		if h := w.Health(); h.Loaded || h.FileErr == nil || w.Decide("a", "1").Reason != flags.ReasonMissing || said("is ignored") != 1 {
			t.Fatalf("%s: %+v, said %d times", name, h, said("is ignored"))
		}
	}
	wrote(t, path, everybody(1)) // and replaced by the next good one
	if again, err := os.ReadFile(path); err != nil || len(again) != len(whole) {
		t.Errorf("%s, %v", again, err)
	}
}

func TestFile_MissingIsNoProblem(t *testing.T) {
	log, said := logging()
	w := flags.NewWatcher(away(), flags.Options{File: filepath.Join(t.TempDir(), "none"), Logger: log})
	_ = w.Refresh(t.Context())
	if h := w.Health(); h.Loaded || h.FileErr != nil || said("snapshot file") != 0 {
		t.Errorf("%+v", h)
	}
}

func TestFile_DoesNotFollowASymbolicLink(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "flags"), filepath.Join(dir, "target")
	wrote(t, target, everybody(1))
	before, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	w := flags.NewWatcher(away(), flags.Options{File: path})
	_ = w.Refresh(t.Context())
	if h := w.Health(); h.Loaded || h.FileErr == nil {
		t.Errorf("a link is followed: %+v", h)
	}
	wrote(t, path, nobody(2))
	if after, err := os.ReadFile(target); err != nil || !bytes.Equal(after, before) {
		t.Errorf("a link was written through: %s, %v", after, err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestFile_UnusableHarmsNoDecision(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	closed := filepath.Join(dir, "closed")
	full := filepath.Join(dir, "full")
	if err := errors.Join(os.WriteFile(plain, nil, 0o600), os.Mkdir(closed, 0o000), os.MkdirAll(filepath.Join(full, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{
		"below a directory that is not there": filepath.Join(dir, "none", "flags"),
		"below a file":                        filepath.Join(plain, "flags"),
		"a directory":                         full,
		"a name that is too long":             filepath.Join(dir, strings.Repeat("x", 300)),
	}
	if os.Getuid() != 0 { // whom no mode keeps out
		paths["in a directory that may not be read"] = filepath.Join(closed, "flags")
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, said := logging()
				source := away()
				w := flags.NewWatcher(source, flags.Options{File: path, Logger: log})
				running(t, w)
				for version := range int64(5) {
					source.change(func() { source.err, source.rows["a"] = nil, everybody(version+1) })
					time.Sleep(2 * time.Second)
					synctest.Wait()
					if d := w.Decide("a", "1"); !d.On || d.Version != version+1 {
						t.Fatalf("%+v", d)
					}
				}
				if h := w.Health(); h.FileErr == nil || h.Err != nil || said("is ignored")+said("cannot be written") != 1 {
					t.Errorf("%+v, said %d times", h, said("is ignored")+said("cannot be written"))
				}
			})
		})
	}
}

func TestFile_LogsThatItIsWrittenAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		log, said := logging()
		source := tableOf(everybody(1))
		w := flags.NewWatcher(source, flags.Options{File: filepath.Join(dir, "flags"), Logger: log})
		running(t, w)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if h := w.Health(); h.FileErr != nil || said("is written again") != 1 {
			t.Errorf("%+v", h)
		}
	})
}
