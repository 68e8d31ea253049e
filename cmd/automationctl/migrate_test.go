package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func TestMigrate_UpStatusAndDown(t *testing.T) {
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			s := shell{t, map[string]string{"DATABASE_URL": open(t)}}
			expect := func(code int, out, errs string, args ...string) result {
				t.Helper()
				r := s.run(args...)
				if r.code != code || !strings.Contains(r.out, out) || !strings.Contains(r.errs, errs) {
					t.Errorf("%v: exit %d\n%s%s\nwant exit %d, %q and %q", args, r.code, r.out, r.errs, code, out, errs)
				}
				return r
			}
			if name == "postgres" {
				expect(1, "-- migration 1, automation, has not been applied\n-- automationctl migrate up, or run automation/schema/", "", "verify")
				expect(0, "1         automation ", "", "migrate", "status")
			} else {
				expect(3, "", "automationctl migrate up creates a new database", "migrate", "status")
			}
			if name == "postgres" {
				expect(0, "apply migration 1, automation\n", "", "migrate", "up", "--dry-run")
				expect(0, "create table automation_sessions\n", "", "migrate", "up", "--dry-run")
				expect(0, "1         automation ", "", "migrate", "status") // the dry run applied nothing
			}
			expect(0, "Applied 1, automation.\nApplied 2, rollouts.\nApplied 3, jobs.\n", "", "migrate", "up")
			expect(0, "No migration was missing.\n", "", "migrate", "up")
			expect(0, "No migration is missing.\n", "", "migrate", "up", "--dry-run")
			expect(0, "[]\n", "", "migrate", "up", "--json")
			expect(0, "OK: ", "", "verify")

			var list []schema.Migration
			if err := json.Unmarshal([]byte(expect(0, "[", "", "migrate", "status", "--json").out), &list); err != nil || len(list) < 3 || list[0].AppliedAt.IsZero() {
				t.Errorf("status %v, error %v; want all migrations applied", list, err)
			}
			last := list[len(list)-1]
			expect(2, "", fmt.Sprintf("this would revert %d (%s) and delete no rows; dump the tables first, then repeat it with --yes", last.Version, last.Name), "migrate", "down")
			s.run("flags", "set", "automation", "--percentage", "3")
			expect(2, "", "1 rows of automation_jobs, ", "migrate", "down", "--steps", "99")
			expect(2, "", "1 rows of feature_flags", "migrate", "down", "--steps", "99")
			expect(2, "", "2 rows of feature_flag_events", "migrate", "down", "--steps", "99")
			expect(2, "", "--steps is 0", "migrate", "down", "--steps", "0")
			expect(0, "OK: ", "", "verify")
			expect(0, fmt.Sprintf("Reverted %d, %s.\n", last.Version, last.Name), "", "migrate", "down", "--yes")
			expect(1, fmt.Sprintf("-- migration %d, %s, has not been applied", last.Version, last.Name), "", "verify")
			expect(0, "Reverted 2, rollouts.\nReverted 1, automation.\n", "2 rows of feature_flag_events", "migrate", "down", "--steps", "99", "--yes")
			expect(0, "No migration was applied.\n", "", "migrate", "down", "--yes")
			expect(0, "No migration was applied.\n", "", "migrate", "down")
		})
	}
}

func TestMigrate_DryRunNamesTheRowsThatItCannotAdopt(t *testing.T) {
	dsn := pgtest.Database(t)
	db := pgtest.Open(t, dsn)
	execute(t, db, `CREATE TABLE feature_flags (feature_name text, enabled boolean, enabled_user_ids text)`, `INSERT INTO feature_flags VALUES ('a', true, ''), ('a', true, '')`,
		`CREATE TABLE user_automation_settings (user_id integer, is_enabled boolean)`, `INSERT INTO user_automation_settings VALUES (7, true), (7, false)`)
	s := shell{t, map[string]string{"DATABASE_URL": dsn}}
	r := s.run("migrate", "up", "--dry-run")
	for _, want := range []string{"refuse: ", "feature_flags has 2 rows of the flag 'a'", "SELECT ctid, * FROM feature_flags WHERE feature_name = 'a'", "user_automation_settings has 2 rows of the user '7'", "adopt table feature_flags"} {
		if r.code != codeFailed || !strings.Contains(r.out, want) {
			t.Errorf("exit %d, want %d and %s in\n%s%s", r.code, codeFailed, want, r.out, r.errs)
		}
	}
	execute(t, db, `DELETE FROM feature_flags WHERE ctid = (SELECT min(ctid) FROM feature_flags)`, `DELETE FROM user_automation_settings WHERE is_enabled`)
	if r := s.run("migrate", "up", "--dry-run"); r.code != 0 || strings.Contains(r.out, "refuse") {
		t.Errorf("a dry run after the rows were deleted: exit %d, want 0 and nothing refused\n%s%s", r.code, r.out, r.errs)
	}
	if r := s.run("migrate", "up"); r.code != 0 {
		t.Errorf("migrate up: exit %d, want 0\n%s%s", r.code, r.out, r.errs)
	}
}

func TestMigrateSQL_WritesFilesForOtherTools(t *testing.T) {
	dir := t.TempDir()
	s := shell{t, nil}
	for format, want := range map[string][]string{
		"golang-migrate": {"0001_automation.down.sql", "0001_automation.up.sql"},
		"goose":          {"0001_automation.sql"},
		"alembic":        {"automation/0001_automation.down.sql", "automation/0001_automation.up.sql", "versions/automation.py"},
	} {
		t.Run(format, func(t *testing.T) {
			target := filepath.Join(dir, format)
			if r := s.run("migrate", "sql", "--format", format, "--dir", target, "--after", "<your last revision>"); r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.errs)
			}
			printed := s.run("migrate", "sql", "--format", format, "--after", "<your last revision>")
			for _, name := range want {
				text, err := os.ReadFile(filepath.Join(target, name))
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(printed.out, "-- "+name+"\n"+string(text)) {
					t.Errorf("the printed text differs from the file %s", name)
				}
			}
		})
	}
	t.Run("the runbook has alembic's revision", func(t *testing.T) {
		revision, err := os.ReadFile(filepath.Join(dir, "alembic/versions/automation.py"))
		if err != nil {
			t.Fatal(err)
		}
		runbook, err := os.ReadFile("../../docs/runbook.md")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(runbook), "```python\n"+string(revision)+"```\n") {
			t.Errorf("docs/runbook.md does not contain the revision\n%s", revision)
		}
	})
	if r := s.run("migrate", "sql", "--format", "flyway"); r.code != codeUsage || !strings.Contains(r.errs, "golang-migrate, goose or alembic") {
		t.Errorf("an unknown format: exit %d, want %d and the known formats in\n%s", r.code, codeUsage, r.errs)
	}
}
