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

func signed(body string) string {
	return fmt.Sprintf("%s%x\n%s", fileHead, sha256.Sum256([]byte(body)), body)
}

func TestParseSnapshot_RefusesWhatNoFlagHolds(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":            `{`,
		"a list":             `[]`,
		"no time":            `{"flags":[]}`,
		"no name":            `{"as_of":"2026-11-23T06:00:00Z","flags":[{}]}`,
		"no flag":            `{"as_of":"2026-11-23T06:00:00Z","flags":[null]}`,
		"one twice":          `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a"},{"feature_name":"a"}]}`,
		"more than 100 %":    `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a","rollout_percentage":150}]}`,
		"less than 0 %":      `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a","rollout_percentage":-1}]}`,
		"a list that is not": `{"as_of":"2026-11-23T06:00:00Z","flags":[{"feature_name":"a","enabled_user_ids":[[]]}]}`,
	} {
		if s, err := parseSnapshot(signed(body)); err == nil {
			t.Errorf("%s is read as %+v", name, s)
		}
	}
	if s, err := parseSnapshot(signed(`{"as_of":"2026-11-23T06:00:00Z","flags":[]}`)); err != nil || !s.loaded || len(s.flags) != 0 {
		t.Errorf("no flags at all: %+v, %v", s, err)
	}
	if _, err := parseSnapshot("hello"); err == nil {
		t.Error("any text is a snapshot")
	}
}

// FuzzSnapshot reads any text, as it stands and behind a right checksum; what is
// taken is written and read as the same.
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
			t.Error("taken without a checksum")
		}
		s, err := parseSnapshot(signed(body))
		if err != nil {
			return
		}
		if err := s.write(path); err != nil {
			if s.asOf.Year() > 9999 || s.asOf.Year() < 0 {
				return
			}
			t.Fatal(err)
		}
		again, err := readSnapshot(path)
		if err != nil || !again.asOf.Equal(s.asOf) {
			t.Fatalf("%+v, %v", again, err)
		}
		was, _ := json.Marshal(s.list())
		is, _ := json.Marshal(again.list())
		if string(was) != string(is) {
			t.Errorf("%s comes back as %s", was, is)
		}
	})
}

func TestFile_SavesNothingOlder(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "flags")
	f := &file{path: path}
	s := &snapshot{loaded: true, asOf: at}
	f.save(t.Context(), s)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*snapshot{
		"as old":        {loaded: true, asOf: at},
		"older":         {loaded: true, asOf: at.Add(-time.Second)},
		"never read":    {asOf: at.Add(time.Second)},
		"from the file": {loaded: true, fromFile: true, asOf: at.Add(time.Second)},
	} {
		f.save(t.Context(), s)
		if _, err := os.Stat(path); err == nil {
			t.Errorf("a snapshot %s was written", name)
		}
	}
}
