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

// swinging is a Source of one flag with a long list, another each time.
type swinging struct{ lists []flags.IDs }

func (s *swinging) Load(_ context.Context, known map[string]flags.RowVersion) (flags.LoadResult, error) {
	i := 0
	if known["a"] == "0" {
		i = 1
	}
	stamp := flags.RowVersion('0' + rune(i))
	return flags.LoadResult{
		Versions: map[string]flags.RowVersion{"a": stamp},
		Flags:    []*flags.Flag{{Name: "a", Enabled: true, EnabledUserIDs: s.lists[i], Version: int64(i)}},
	}, nil
}

// Not a test of its own: the process that the next one kills.
func TestFile_WriterProcess(t *testing.T) {
	path := os.Getenv("FLAGS_TEST_FILE")
	if path == "" {
		t.Skip("it has no parent")
	}
	source := &swinging{[]flags.IDs{ids(20_000), ids(10_000)}}
	if _, err := os.Stdout.WriteString("running\n"); err != nil {
		t.Fatal(err)
	}
	flags.NewWatcher(source, flags.Options{File: path, Interval: time.Microsecond}).Run(t.Context())
}

// isUnfinished reports whether a write has begun and not ended.
func isUnfinished(t *testing.T, path string) bool {
	t.Helper()
	files, err := filepath.Glob(path + ".*.tmp")
	if err != nil {
		t.Fatal(err)
	}
	return len(files) > 0
}

func TestFile_IsWholeAfterAKillInTheMiddleOfAWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s: kills ten processes")
	}
	path := filepath.Join(t.TempDir(), "flags")
	wrote(t, path, &flags.Flag{Name: "a", EnabledUserIDs: ids(10_000)})
	unfinished := 0
	for i, start := 0, time.Now(); i < 10 || unfinished == 0 && time.Since(start) < 2*time.Minute; i++ {
		child := proctest.Start(t, proctest.Self([]string{"-test.run=^TestFile_WriterProcess$"}, "FLAGS_TEST_FILE="+path))
		if _, ok := child.Line(); !ok {
			t.Fatal("the writer ended before it wrote")
		}
		if i%2 == 0 {
			<-time.NewTimer(rand.N(60 * time.Millisecond)).C // anywhere
		}
		for begun := time.Now(); i%2 == 1 && time.Since(begun) < 10*time.Second; { // or while it writes
			if isUnfinished(t, path) {
				break
			}
		}
		child.Kill()
		if isUnfinished(t, path) {
			unfinished++
		}
		w := flags.NewWatcher(away(), flags.Options{File: path})
		_ = w.Refresh(t.Context())
		if f := w.Flag("a"); f == nil || f.EnabledUserIDs.Len()%10_000 != 0 || f.EnabledUserIDs.Len() == 0 {
			t.Fatalf("%v, %+v", f, w.Health())
		}
	}
	if unfinished == 0 {
		t.Error("no kill came in the middle of a write")
	}
	left, err := filepath.Glob(path + "*")
	if err != nil || len(left) > 2 {
		t.Errorf("%v, %v", left, err)
	}
}
