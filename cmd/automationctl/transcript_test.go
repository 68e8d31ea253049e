package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The output is the same on both databases.
func TestCommands_MatchTheirTranscripts(t *testing.T) {
	for name, open := range databases {
		for _, transcript := range []string{"empty-" + name, "checks", "flags", "rollout", "cleanup", "incident"} {
			t.Run(transcript+" on "+name, func(t *testing.T) {
				if *update && name != "sqlite" && !strings.HasPrefix(transcript, "empty") {
					t.Skip("the test on SQLite writes this transcript")
				}
				dir := t.TempDir()
				t.Chdir(dir) // so that the paths in the output are the same everywhere
				for file, text := range files {
					if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				s := shell{t, map[string]string{"DATABASE_URL": open(t), "USER": "op"}}
				if !strings.HasPrefix(transcript, "empty") {
					if r := s.run("migrate", "up"); r.code != 0 {
						t.Fatalf("exit %d: %s", r.code, r.errs)
					}
				}
				runTranscript(t, filepath.Join(testdata, transcript+".txt"), s)
			})
		}
	}
}

// testdata is the absolute path of the transcripts, because tests change the directory.
var testdata = func() string {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		panic(err)
	}
	return dir
}()

// files are the files that transcripts use.
var files = map[string]string{
	"good.json":  `{"default": "0x` + strings.Repeat("a", 64) + `", "llama": "0x` + strings.Repeat("a", 64) + `"}`,
	"bad.json":   "{\n\"llama\": \"0x12\",\n\"Llama\": \"0x" + strings.Repeat("a", 64) + "\"}",
	"users.txt":  "11\n12, 13\n",
	"plan.json":  `{"stages": [{"name": "all", "percentage": 100, "hold": "1h"}], "limit": 2.5}`,
	"wrong.json": `{"stages": [{"name": "", "percentage": 101, "hold": "1h"}], "limits": 1}`,
}
