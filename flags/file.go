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

// fileHead and a checksum are the first line of a snapshot file; the rest is
// JSON. The checksum detects a truncated, damaged or edited file. It is not a
// signature: whoever can write the file can also compute its checksum.
const fileHead = "automation flags 1, sha256 "

type fileBody struct {
	AsOf  time.Time `json:"as_of"`
	Flags []*Flag   `json:"flags"`
}

const (
	maxFile    = 1 << 30         // bytes; a snapshot file is never larger
	maxFileAge = 5 * time.Minute // then the file is written again without a change
)

// file is the snapshot file of a Watcher.
type file struct {
	path    string
	log     *slog.Logger
	changed retry.Trigger // fires when flags have changed
	once    sync.Once     // load reads the file once
	mu      sync.Mutex    // guards the fields below, and writing the file
	saved   time.Time     // the asOf of the snapshot in the file
	err     error         // of the last use
}

func newFile(path string, log *slog.Logger) *file {
	return &file{path: path, log: log, changed: retry.NewTrigger()}
}

// run saves the flags until ctx ends: after each change, and otherwise every
// maxFileAge, so that the asOf in the file is close to the last successful pass.
func (f *file) run(ctx context.Context, state func() *snapshot) {
	retry.Loop(ctx, f.changed, func(ctx context.Context) time.Duration {
		f.save(ctx, state())
		return maxFileAge
	})
	select {
	case <-f.changed: // shortly before ctx ended
		f.save(ctx, state())
	default:
	}
}

// save writes the flags, unless the file holds a snapshot that is as new.
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

// load reads the file on its first call. It returns nil if the file does not
// exist or is invalid, and on every later call.
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

// readSnapshot reads what write wrote. Without a file it returns nil, nil.
func readSnapshot(path string) (*snapshot, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s must be a regular file of at most %d bytes; it has mode %v and %d bytes", path, maxFile, info.Mode(), info.Size())
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
		return nil, errors.New("not a snapshot of flags")
	}
	if actual := sha256.Sum256([]byte(text)); sum != hex.EncodeToString(actual[:]) {
		return nil, errors.New("truncated or edited: the checksum is not that of the content")
	}
	var body fileBody
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		return nil, fmt.Errorf("not valid flags: %w", err)
	}
	s := &snapshot{flags: map[string]entry{}, bad: map[string]*RowError{}, loaded: true, fromFile: true, asOf: body.AsOf}
	for _, f := range body.Flags {
		if f == nil || f.Name == "" {
			return nil, errors.New("a flag has no name")
		}
		s.flags[f.Name] = entry{f, new(counters)}
	}
	if len(s.flags) != len(body.Flags) {
		return nil, errors.New("two flags have the same name")
	}
	if body.AsOf.IsZero() {
		return nil, errors.New("as_of is missing")
	}
	return s, nil
}
