package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The same words on both databases.
func TestCommands_MatchTheirTranscripts(t *testing.T) {
	for name, open := range databases {
		for _, story := range []string{"empty-" + name, "checks", "flags", "rollout", "cleanup", "night"} {
			t.Run(story+" on "+name, func(t *testing.T) {
				if *update && name != "sqlite" && !strings.HasPrefix(story, "empty") {
					t.Skip("written by the other")
				}
				dir := t.TempDir()
				t.Chdir(dir) // so that files have the same names everywhere
				for file, text := range files {
					if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				s := shell{t, map[string]string{"DATABASE_URL": open(t), "USER": "op"}}
				if !strings.HasPrefix(story, "empty") {
					if r := s.run("migrate", "up"); r.code != 0 {
						t.Fatal(r.errs)
					}
				}
				play(t, filepath.Join(testdata, story+".txt"), s)
			})
		}
	}
}

// testdata is where the transcripts are, whatever directory a test is in.
var testdata = func() string {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		panic(err)
	}
	return dir
}()

// files are those that transcripts name.
var files = map[string]string{
	"good.json":  `{"default": "0x` + strings.Repeat("a", 64) + `", "llama": "0x` + strings.Repeat("a", 64) + `"}`,
	"bad.json":   "{\n\"llama\": \"0x12\",\n\"Llama\": \"0x" + strings.Repeat("a", 64) + "\"}",
	"users.txt":  "11\n12, 13\n",
	"plan.json":  `{"stages": [{"name": "all", "percentage": 100, "hold": "1h"}], "limit": 2.5}`,
	"wrong.json": `{"stages": [{"name": "", "percentage": 101, "hold": "1h"}], "limits": 1}`,
}
