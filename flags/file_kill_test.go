package flags_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
)

// alternating is a Source of one flag. Each load changes the flag from one of two
// long lists to the other.
type alternating struct{ lists [2]flags.IDs }

func (s *alternating) Load(_ context.Context, known map[string]flags.RowVersion) (flags.LoadResult, error) {
	i := 0
	if known["a"] == "0" {
		i = 1
	}
	rowVersion := flags.RowVersion('0' + rune(i))
	return flags.LoadResult{
		Versions: map[string]flags.RowVersion{"a": rowVersion},
		Flags:    []*flags.Flag{{Name: "a", Enabled: true, EnabledUserIDs: s.lists[i], Version: int64(i)}},
	}, nil
}

// TestFile_WriterProcess is the child process that
// TestFile_IsCompleteAfterAKillDuringAWrite kills.
func TestFile_WriterProcess(t *testing.T) {
	path := os.Getenv("FLAGS_TEST_FILE")
	if path == "" {
		t.Skip("runs only as a child process")
	}
	source := &alternating{[2]flags.IDs{ids(20_000), ids(10_000)}}
	if _, err := os.Stdout.WriteString("running\n"); err != nil {
		t.Fatal(err)
	}
	flags.NewWatcher(source, flags.Options{File: path, Interval: time.Microsecond}).Run(t.Context())
}

// isWriteUnfinished reports whether a write has begun and not ended.
func isWriteUnfinished(t *testing.T, path string) bool {
	t.Helper()
	files, err := filepath.Glob(path + ".*.tmp")
	if err != nil {
		t.Fatal(err)
	}
	return len(files) > 0
}

func TestFile_IsCompleteAfterAKillDuringAWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s: kills ten processes")
	}
	path := filepath.Join(t.TempDir(), "flags")
	writeFile(t, path, &flags.Flag{Name: "a", EnabledUserIDs: ids(10_000)})
	unfinished := 0
	for i, start := 0, time.Now(); i < 10 || unfinished == 0 && time.Since(start) < 2*time.Minute; i++ {
		child := proctest.Start(t, proctest.Self([]string{"-test.run=^TestFile_WriterProcess$"}, "FLAGS_TEST_FILE="+path))
		if _, ok := child.Line(); !ok {
			t.Fatal("the writer ended before it wrote")
		}
		if i%2 == 0 { // kill it at a random moment
			<-time.NewTimer(rand.N(60 * time.Millisecond)).C
		} else { // kill it during a write
			for start := time.Now(); !isWriteUnfinished(t, path) && time.Since(start) < 10*time.Second; {
			}
		}
		child.Kill()
		if isWriteUnfinished(t, path) {
			unfinished++
		}
		w := flags.NewWatcher(unavailable(), flags.Options{File: path})
		_ = w.Refresh(t.Context())
		if f := w.Flag("a"); f == nil || f.EnabledUserIDs.Len() != 10_000 && f.EnabledUserIDs.Len() != 20_000 {
			t.Fatalf("the file does not restore one of the two lists: health %+v", w.Health())
		}
	}
	if unfinished == 0 {
		t.Error("no kill came during a write")
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) > 2 {
		t.Errorf("files %v, %v; want the snapshot and at most one unfinished file", files, err)
	}
}
