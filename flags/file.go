package flags

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// The snapshot file is a line that holds the checksum of the JSON after it.
// The checksum tells a file that was cut off, damaged or edited by hand. It is
// no signature: who may write to the file can give it a right one as well.
const fileHead = "automation flags 1, sha256 "

type fileBody struct {
	AsOf  time.Time `json:"as_of"`
	Flags []*Flag   `json:"flags"`
}

const (
	maxFile = 1 << 30         // bytes; more is no snapshot of ours
	fileAge = 5 * time.Minute // how old a file may be that nothing has changed since
)

// file is the snapshot file of a Watcher.
type file struct {
	path   string
	log    *slog.Logger
	due    chan struct{} // flags have changed
	once   sync.Once     // of reading it
	mu     sync.Mutex    // of all below, and of writing it
	saved  time.Time     // the asOf of what is in it
	failed error         // of the last use
}

// keep saves until ctx ends: after changes, and now and then without, so that
// the age of what is in the file stays near the truth.
func (f *file) keep(ctx context.Context, state func() *snapshot) {
	again := time.NewTicker(fileAge)
	defer again.Stop()
	for {
		select {
		case <-f.due:
		case <-again.C:
		case <-ctx.Done():
			select {
			case <-f.due:
				f.save(ctx, state())
			default:
			}
			return
		}
		f.save(ctx, state())
	}
}

// changed has keep save. It never blocks.
func (f *file) changed() {
	select {
	case f.due <- struct{}{}:
	default:
	}
}

// save writes the flags, unless what is in the file is as new.
func (f *file) save(ctx context.Context, s *snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !s.read || s.bridged || !s.asOf.After(f.saved) {
		return
	}
	err := s.write(f.path)
	if err == nil {
		f.saved = s.asOf
	}
	switch {
	case err != nil && f.failed == nil:
		f.log.WarnContext(ctx, "the flags' snapshot file cannot be written; decisions do not need it", "error", err)
	case err == nil && f.failed != nil:
		f.log.InfoContext(ctx, "the flags' snapshot file is written again")
	}
	f.failed = err
}

// load reads the file, the first time that it is called; nil if there is none,
// or none that is whole.
func (f *file) load(ctx context.Context) (s *snapshot) {
	f.once.Do(func() {
		var err error
		s, err = readSnapshot(f.path)
		if err != nil {
			f.log.WarnContext(ctx, "the flags' snapshot file is ignored", "error", err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failed = err
	})
	return s
}

func (f *file) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// write puts a new file in the place of path: whoever reads it, whenever we
// are killed, finds the old one or the new one. A symbolic link is replaced,
// not followed.
func (s *snapshot) write(path string) (err error) {
	text, err := json.Marshal(fileBody{s.asOf, s.list()})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	// Always of the same name, so that no number of kills leaves more than one.
	unfinished := path + ".tmp"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s%x\n%s", fileHead, sum, text)
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	return nil
}

// readSnapshot reads what write wrote; nil where there is no file.
func readSnapshot(path string) (*snapshot, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes, but %v of %d", path, maxFile, info.Mode(), info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := parseSnapshot(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func parseSnapshot(text string) (*snapshot, error) {
	head, text, _ := strings.Cut(text, "\n")
	sum, ok := strings.CutPrefix(head, fileHead)
	if !ok {
		return nil, errors.New("that is no snapshot of flags")
	}
	if is := sha256.Sum256([]byte(text)); sum != hex.EncodeToString(is[:]) {
		return nil, errors.New("it was cut off or changed: its checksum is not that of what it holds")
	}
	var body fileBody
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		return nil, fmt.Errorf("it holds what no flag can: %w", err)
	}
	s := &snapshot{flags: map[string]entry{}, bad: map[string]*RowError{}, read: true, bridged: true, asOf: body.AsOf}
	for _, f := range body.Flags {
		if f == nil || f.Name == "" {
			return nil, errors.New("it holds a flag without a name")
		}
		s.flags[f.Name] = entry{f, new(counts)}
	}
	if len(s.flags) != len(body.Flags) || body.AsOf.IsZero() {
		return nil, errors.New("it holds a flag twice, or does not say of when it is")
	}
	return s, nil
}
