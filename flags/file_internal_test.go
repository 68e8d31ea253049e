package flags

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// withChecksum returns a snapshot file of the body.
func withChecksum(body string) string {
	return fmt.Sprintf("%s%x\n%s", fileHead, sha256.Sum256([]byte(body)), body)
}

func TestParseSnapshot_RejectsInvalidContent(t *testing.T) {
	for name, body := range map[string]string{
		"truncated JSON":       `{`,
		"a list":               `[]`,
		"no time":              `{"flags":[]}`,
		"a flag without name":  `{"as_of":"2026-11-23T06:00:00Z","flags":[{}]}`,
		"a null flag":          `{"as_of":"2026-11-23T06:00:00Z","flags":[null]}`,
		"two flags of a name":  `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a"},{"feature_name":"a"}]}`,
		"more than 100 %":      `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a","rollout_percentage":150}]}`,
		"less than 0 %":        `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a","rollout_percentage":-1}]}`,
		"an id that is a list": `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a","enabled_user_ids":[[]]}]}`,
	} {
		if s, err := parseSnapshot(withChecksum(body)); err == nil {
			t.Errorf("%s: parsed as %+v, want an error", name, s)
		}
	}
	if s, err := parseSnapshot(withChecksum(`{"as_of":"2026-11-23T06:00:00Z","flags":[]}`)); err != nil || !s.loaded || len(s.flags) != 0 {
		t.Errorf("an empty list of flags: parsed as %+v, %v; want a loaded snapshot without flags", s, err)
	}
	if _, err := parseSnapshot("hello"); err == nil {
		t.Error("a text without a checksum is parsed without an error")
	}
}

// FuzzSnapshot parses any text, alone and after a valid checksum. A snapshot that
// is accepted must be the same after it is written and read.
func FuzzSnapshot(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `{"as_of":"2026-11-23T06:00:00Z","flags":[]}`,
		`{"as_of":"2026-11-23T06:00:00.123456Z","flags":[{"feature_name":"a","enabled":true,"enabled_user_ids":[1,"ü"],"rollout_percentage":12.34,"seed":"s","version":3}]}`,
	} {
		f.Add(body)
	}
	path := filepath.Join(f.TempDir(), "flags")
	f.Fuzz(func(t *testing.T, body string) {
		if _, err := parseSnapshot(body); err == nil && body[:len(fileHead)] != fileHead {
			t.Error("a text without a checksum is parsed without an error")
		}
		s, err := parseSnapshot(withChecksum(body))
		if err != nil {
			return
		}
		if err := s.write(path); err != nil {
			if s.asOf.Year() > 9999 || s.asOf.Year() < 0 { // not a time of RFC 3339
				return
			}
			t.Fatal(err)
		}
		again, err := readSnapshot(path)
		if err != nil || !again.asOf.Equal(s.asOf) {
			t.Fatalf("read %+v, %v; want the time %v", again, err, s.asOf)
		}
		want, _ := json.Marshal(s.list())
		got, _ := json.Marshal(again.list())
		if string(got) != string(want) {
			t.Errorf("wrote %s, read %s", want, got)
		}
	})
}

func TestFile_SavesOnlyNewerSnapshotsOfTheDatabase(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "flags")
	f := &file{path: path}
	s := &snapshot{loaded: true, asOf: at}
	f.save(t.Context(), s)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*snapshot{
		"a snapshot of the same time":      {loaded: true, asOf: at},
		"an older snapshot":                {loaded: true, asOf: at.Add(-time.Second)},
		"a snapshot that was not loaded":   {asOf: at.Add(time.Second)},
		"a snapshot that is from the file": {loaded: true, fromFile: true, asOf: at.Add(time.Second)},
	} {
		f.save(t.Context(), s)
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}
