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

	"github.com/MorpheusAIs/gateway-automation/internal/atomicfile"
	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// The snapshot file is a line that holds the checksum of the JSON after it.
// The checksum detects a file that was cut off, damaged or edited by hand. It is
// no signature: who may write to the file can give it a right one as well.
const fileHead = "automation flags 1, sha256 "

type fileBody struct {
	AsOf  time.Time `json:"as_of"`
	Flags []*Flag   `json:"flags"`
}

const (
	maxFile    = 1 << 30         // bytes; more is no snapshot of ours
	maxFileAge = 5 * time.Minute // how old a file may be that nothing has changed since
)

// file is the snapshot file of a Watcher.
type file struct {
	path    string
	log     *slog.Logger
	changed retry.Trigger // flags have changed
	once    sync.Once     // of reading it
	mu      sync.Mutex    // of all below, and of writing it
	saved   time.Time     // the asOf of what is in it
	err     error         // of the last use
}

func newFile(path string, log *slog.Logger) *file {
	return &file{path: path, log: log, changed: retry.NewTrigger()}
}

// run saves until ctx ends: after changes, and now and then without, so that
// the age of what is in the file stays near the truth.
func (f *file) run(ctx context.Context, state func() *snapshot) {
	retry.Loop(ctx, f.changed, func(ctx context.Context) time.Duration {
		f.save(ctx, state())
		return maxFileAge
	})
	select {
	case <-f.changed:
		f.save(ctx, state())
	default:
	}
}

// save writes the flags, unless what is in the file is as new.
func (f *file) save(ctx context.Context, s *snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !s.loaded || s.fromFile || !s.asOf.After(f.saved) {
		return
	}
	err := s.write(f.path)
	if err == nil {
		f.saved = s.asOf
	}
	switch {
	case err != nil && f.err == nil:
		f.log.WarnContext(ctx, "the flags' snapshot file cannot be written; decisions do not need it", "error", err)
	case err == nil && f.err != nil:
		f.log.InfoContext(ctx, "the flags' snapshot file is written again")
	}
	f.err = err
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
		f.err = err
	})
	return s
}

func (f *file) lastError() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (s *snapshot) write(path string) error {
	text, err := json.Marshal(fileBody{s.asOf, s.list()})
	if err != nil {
		return err
	}
	return atomicfile.Write(path, fmt.Appendf(nil, "%s%x\n%s", fileHead, sha256.Sum256(text), text))
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
	s := &snapshot{flags: map[string]entry{}, bad: map[string]*RowError{}, loaded: true, fromFile: true, asOf: body.AsOf}
	for _, f := range body.Flags {
		if f == nil || f.Name == "" {
			return nil, errors.New("it holds a flag without a name")
		}
		s.flags[f.Name] = entry{f, new(counters)}
	}
	if len(s.flags) != len(body.Flags) || body.AsOf.IsZero() {
		return nil, errors.New("it holds a flag twice, or does not say of when it is")
	}
	return s, nil
}
