package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/dbopen"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// migrated migrates a database and returns a shell that uses it, and the database.
func migrated(t *testing.T, database string) (shell, *sqlx.DB) {
	t.Helper()
	s := shell{t, map[string]string{"DATABASE_URL": database}}
	if r := s.run("migrate", "up"); r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.errs)
	}
	db, _, err := dbopen.Open(database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return s, db
}

func onBoth(t *testing.T, test func(t *testing.T, s shell, db *sqlx.DB)) {
	t.Helper()
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			s, db := migrated(t, open(t))
			test(t, s, db)
		})
	}
}

func execute(t *testing.T, db *sqlx.DB, statements ...string) {
	t.Helper()
	macros := sqldb.New(db, sqldb.Options{})
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), macros.Expand(s)); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestFlagsEvents_PrintsTheAuditAsJSON(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		s.run("flags", "set", "automation", "--percentage", "10", "--actor", "ann")
		var list []flagsql.Event
		if err := json.Unmarshal([]byte(s.run("flags", "events", "automation", "--json").out), &list); err != nil || len(list) != 2 || list[0].By != "ann" {
			t.Errorf("events %+v, error %v; want two, the newest by ann", list, err)
		}
	})
}

func TestFlagsSet_RecordsTheSystemUser(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		s.run("flags", "set", "automation", "--percentage", "10")
		if r := s.run("flags", "list"); !strings.Contains(r.out, systemUser(func(string) string { return "" })) {
			t.Errorf("the list of flags does not name the system's user:\n%s", r.out)
		}
	})
}

func TestCleanup_RemovesTheRowsThatItReports(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		execute(t, db, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at) VALUES
			('gone', TRUE, 3600, {in -9e6}, {in -9e6}, {in -9e6}), ('off', FALSE, 3600, {in -9e6}, {in -9e6}, NULL),
			('on', TRUE, 3600, {in -9e6}, {in -9e6}, NULL), ('deleted-lately', TRUE, 3600, {in -9e6}, {in -9e6}, {in -200000})`)
		left := func() (list []string) {
			t.Helper()
			if err := db.SelectContext(t.Context(), &list, `SELECT user_id FROM user_automation_settings ORDER BY user_id`); err != nil {
				t.Fatal(err)
			}
			return list
		}
		for _, step := range []struct{ out, left string }{
			{"1                  30 days      settings deleted by their user", "[deleted-lately gone off on]"},
			{"1         30 days      settings deleted by their user", "[deleted-lately off on]"},
		} {
			args := []string{"cleanup", "--yes"}
			if strings.HasPrefix(step.out, "1          ") {
				args = []string{"cleanup", "--dry-run"}
			}
			if r := s.run(args...); r.code != 0 || !strings.Contains(r.out, step.out) || fmt.Sprint(left()) != step.left {
				t.Errorf("%v: exit %d, users %v left; want 0, %s and %q in\n%s%s", args, r.code, left(), step.left, step.out, r.out, r.errs)
			}
		}
		var audited []string
		if err := db.SelectContext(t.Context(), &audited, `SELECT feature_name || ' ' || changed_by FROM feature_flag_events WHERE action = 'cleanup'`); err != nil || len(audited) != 1 || !strings.HasPrefix(audited[0], "automation ") {
			t.Errorf("the audit has the clean-ups %q after a dry run and a run, error %v; want only the run", audited, err)
		}
		s.env["AUTOMATION_RETENTION_DAYS"], s.env["AUTOMATION_DEFAULT_OPT_IN"] = "2", "true"
		if r := s.run("cleanup", "--yes", "--json"); r.code != 0 || !strings.Contains(r.out, `"total": 2`) || fmt.Sprint(left()) != "[off]" {
			t.Errorf("a clean-up with a retention of two days: exit %d, users %v left; want 0, [off]\n%s%s", r.code, left(), r.out, r.errs)
		}
		s.env["AUTOMATION_RETENTION_DAYS"] = "0"
		if r := s.run("cleanup", "--yes"); r.code != codeUsage || !strings.Contains(r.errs, "AUTOMATION_RETENTION_DAYS") {
			t.Errorf("a clean-up with a retention of 0 days: exit %d, want %d and the variable's name in\n%s", r.code, codeUsage, r.errs)
		}
		execute(t, db, `UPDATE automation_jobs SET lease_token = 'other', lease_until = {in 30}`)
		s.env["AUTOMATION_RETENTION_DAYS"] = "2"
		if r := s.run("cleanup", "--yes"); r.code != codeConflict || !strings.Contains(r.errs, "try again in a minute") {
			t.Errorf("a clean-up next to another process's: exit %d, want %d and a hint in\n%s", r.code, codeConflict, r.errs)
		}
	})
}

func TestCleanup_ShowsProgress(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		execute(t, db, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001) SELECT 'u' || i, TRUE, 3600, {in -9e6}, {in -9e6}, {in -9e6} FROM n`)
		if r := s.run("cleanup", "--yes", "--pause", "1us"); r.code != 0 || !strings.HasPrefix(r.errs, "removed 10,00") || !strings.Contains(r.out, "10,001 ") {
			t.Errorf("exit %d, want 0, progress and 10,001 rows in\n%s%s", r.code, r.out, r.errs)
		}
	})
}

// In synctest only sleeping moves the clock, so the time that passes is that of the pauses.
func TestCleanup_PausesBetweenBatches(t *testing.T) {
	for pause, want := range map[string]time.Duration{"0s": 0, "1s": 5 * time.Second} {
		t.Run(pause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, db := migrated(t, "sqlite:"+filepath.Join(t.TempDir(), "a.db"))
				execute(t, db, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
					WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT 'u' || i, TRUE, 3600, {in -9e6}, {in -9e6}, {in -9e6} FROM n`)
				started := time.Now()
				r := s.run("cleanup", "--yes", "--pause", pause)
				if took := time.Since(started); r.code != 0 || !strings.Contains(r.out, "1,000 ") || took.Round(time.Second) != want {
					t.Errorf("exit %d after pauses of %v in all, want 0 after %v\n%s%s", r.code, took, want, r.out, r.errs)
				}
			})
		})
	}
}

func TestVerify_PrintsTheSQLThatRepairs(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		execute(t, db, `DROP INDEX automation_sessions_due`)
		r := s.run("verify")
		if r.code != codeFailed || !strings.HasPrefix(r.out, "-- index automation_sessions_due is missing\nCREATE INDEX") || r.errs != "" {
			t.Errorf("verify without an index: exit %d, want %d and the index's SQL in\n%s%s", r.code, codeFailed, r.out, r.errs)
		}
		var list []struct{ SQL string }
		if err := json.Unmarshal([]byte(s.run("verify", "--json").out), &list); err != nil || len(list) != 1 {
			t.Fatalf("verify --json: problems %v, error %v; want one", list, err)
		}
		execute(t, db, list[0].SQL)
		if r := s.run("verify"); r.code != 0 {
			t.Errorf("verify after the SQL has run: exit %d, want 0\n%s", r.code, r.out)
		}
		if db.DriverName() != "sqlite" {
			if r := s.run("verify", "--role", "nobody of that name"); r.code != codeNotFound || !strings.Contains(r.errs, `no such role: "nobody of that name"`) {
				t.Errorf("verify of an unknown role: exit %d, want %d and the name in\n%s", r.code, codeNotFound, r.errs)
			}
		}
	})
}

func TestVerify_WarnsOfSessionsThatNoRowExplains(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		if r := s.run("verify"); r.code != 0 || strings.Contains(r.out, "Warning") {
			t.Errorf("verify without unexplained sessions: exit %d, want 0 and no warning\n%s", r.code, r.out)
		}
		execute(t, db, `UPDATE automation_wallet SET unexplained = 3, audited_at = {now}`)
		r := s.run("verify")
		if r.code != 0 || !strings.HasPrefix(r.out, "OK: ") || !strings.Contains(r.out, "Warning: automation_wallet wallet has 3 open sessions that no row of automation_sessions explains (compared at 20") {
			t.Errorf("verify with unexplained sessions: exit %d, want 0 and a warning\n%s%s", r.code, r.out, r.errs)
		}
		var list []struct{ Severity, Object, SQL string }
		if err := json.Unmarshal([]byte(s.run("verify", "--json").out), &list); err != nil || len(list) != 1 || list[0].Severity != "warning" || !strings.HasPrefix(list[0].SQL, "--") {
			t.Errorf("verify --json: %+v, error %v; want one warning with a comment as its SQL", list, err)
		}
		// With a problem there are no warnings, and the exit code is that of a problem.
		execute(t, db, `DROP INDEX automation_sessions_due`)
		if r := s.run("verify"); r.code != codeFailed || strings.Contains(r.out, "Warning") {
			t.Errorf("verify with a problem: exit %d, want %d and no warning\n%s", r.code, codeFailed, r.out)
		}
	})
}

// notifyingWriter is a buffer that sends each write to a channel.
type notifyingWriter struct {
	bytes.Buffer
	wrote chan string
}

func (s *notifyingWriter) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	s.wrote <- string(p)
	return n, err
}

func TestRolloutWatch_FollowsARolloutToItsEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		c := rollout.NewStore(db)
		do := func(a rollout.Action) {
			t.Helper()
			if _, err := c.Execute(t.Context(), "automation", rollout.Command{Action: a, Actor: "ann"}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Create(t.Context(), "automation", rollout.DefaultPlan(), "ann"); err != nil {
			t.Fatal(err)
		}
		do(rollout.ActionStart)

		out := &notifyingWriter{wrote: make(chan string, 100)}
		done := make(chan int)
		go func() {
			var errs bytes.Buffer
			done <- run(t.Context(), []string{"rollout", "watch", "automation", "--interval", "5ms", "--json"}, func(n string) string { return s.env[n] }, nil, out, &errs)
		}()
		var seen []string
		next := func() {
			t.Helper()
			var e rollout.Event
			select {
			case text := <-out.wrote:
				if err := json.Unmarshal([]byte(text), &e); err != nil {
					t.Fatal(err)
				}
			case code := <-done:
				t.Fatalf("watch ended with exit %d after the steps %v", code, seen)
			}
			seen = append(seen, string(e.Action))
		}
		next()
		do(rollout.ActionSkip)
		do(rollout.ActionPause)
		next()
		next()
		do(rollout.ActionAbort)
		next()
		if code := <-done; code != codeFailed || fmt.Sprint(seen) != "[start skip pause abort]" {
			t.Errorf("exit %d, steps %v; want %d, [start skip pause abort]", code, seen, codeFailed)
		}
	})
}

func TestFlagsSet_PrintsTheEffectOnTheRollout(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		if r := s.run("rollout", "start", "automation", "--actor", "ann"); r.code != 0 {
			t.Fatalf("rollout start: %+v", r)
		}
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"flags", "set", "automation", "--add-enabled-user", "7"}, `The rollout of "automation" continues with this change.`},
			{[]string{"flags", "set", "automation", "--percentage", "3"}, `The rollout of "automation" pauses:`},
			{[]string{"off", "--actor", "ann"}, `The rollout of "automation" pauses: ann disabled the flag.`},
		} {
			if r := s.run(c.args...); r.code != 0 || !strings.Contains(r.errs, c.want) {
				t.Errorf("%v: %+v, want exit 0 and %q on standard error", c.args, r, c.want)
			}
		}
	})
}

func TestRolloutWatch_PrintsEveryStep(t *testing.T) {
	s, db := migrated(t, "sqlite:"+t.TempDir()+"/a.db")
	for _, step := range []string{"start", "skip", "pause"} {
		if r := s.run("rollout", step, "automation"); r.code != 0 {
			t.Fatalf("exit %d: %s", r.code, r.errs)
		}
	}
	var out bytes.Buffer
	a := &app{out: &out}
	seen, err := a.printSteps(t.Context(), rollout.NewStore(db), rollout.Status{Name: "automation", Seq: 3}, 2) // step 4, the pause, is newer than this status
	if err != nil || seen != 3 || !strings.Contains(out.String(), "automation: skip, ") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("the last step is %d, error %v; want 3 and one line about the skip in\n%s", seen, err, &out)
	}
}

func TestRolloutWatch_WaitsForAnUnavailableDatabase(t *testing.T) {
	cluster := pgtest.Start(t, pgtest.Options{})
	s, _ := migrated(t, cluster.DSN("postgres"))
	if r := s.run("rollout", "start", "automation"); r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.errs)
	}
	errs := &notifyingWriter{wrote: make(chan string, 100)}
	done := make(chan int)
	go func() {
		done <- run(t.Context(), []string{"rollout", "watch", "automation", "--interval", "5ms"}, func(n string) string { return s.env[n] }, nil, &bytes.Buffer{}, errs)
	}()
	waitFor := func(part string) {
		t.Helper()
		for {
			select {
			case text := <-errs.wrote:
				if strings.Contains(text, part) {
					return
				}
			case code := <-done:
				t.Fatalf("watch ended with exit %d before it printed %q", code, part)
			}
		}
	}
	waitFor("running")
	cluster.Stop()
	waitFor("waiting for the database")
	cluster.Restart()
	waitFor("running")
	if r := s.run("rollout", "abort", "automation"); r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.errs)
	}
	if code := <-done; code != codeFailed {
		t.Errorf("exit %d after an abort, want %d", code, codeFailed)
	}
}

func TestRolloutWatch_EndsWithItsContext(t *testing.T) {
	s, _ := migrated(t, "sqlite:"+t.TempDir()+"/a.db")
	if r := s.run("rollout", "start", "automation"); r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &notifyingWriter{wrote: make(chan string, 100)}
	go func() { <-out.wrote; cancel() }()
	if code := run(ctx, []string{"rollout", "watch", "automation"}, func(n string) string { return s.env[n] }, nil, out, &bytes.Buffer{}); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
}

func TestRolloutStart_ReadsAPlanFromStandardInput(t *testing.T) {
	s, _ := migrated(t, "sqlite:"+t.TempDir()+"/a.db")
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"rollout", "start", "automation", "--plan", "-", "--actor", "ann"}, func(n string) string { return s.env[n] }, strings.NewReader(files["plan.json"]), &out, &errs)
	if code != 0 || !strings.Contains(out.String(), "stage 1, all, 100 %") {
		t.Errorf("exit %d, want 0 and the plan's stage in\n%s%s", code, &out, &errs)
	}
}

func TestFlagsList_ShortensLongListsInTables(t *testing.T) {
	var list []string
	for i := range 1234 {
		list = append(list, fmt.Sprint(1000+i))
	}
	if got := formatIDs(flags.NewIDs(list...)); !strings.HasSuffix(got, "1019 and 1,214 more; --json prints all") {
		t.Errorf("formatIDs of 1234 ids ends with %q", got[max(0, len(got)-60):])
	}
	if got := truncate(strings.Repeat("ä", 61)); got != strings.Repeat("ä", 60)+"…" {
		t.Errorf("truncate of 61 characters is %q, want 60 and an ellipsis", got)
	}
	if got := formatChanges(flagsql.Event{Before: json.RawMessage("x"), After: json.RawMessage("{}")}); got != "x to {}" {
		t.Errorf("formatChanges of invalid JSON is %q, want %q", got, "x to {}")
	}
}

func TestErrors_HaveExitCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
	}{
		{sqldb.ErrUnavailable, codeUnavailable},
		{sqldb.ErrOutcomeUnknown, codeFailed},
		{flags.ErrConflict, codeConflict},
		{&rollout.IllegalError{}, codeConflict},
		{rollout.ErrInvalid, codeUsage},
		{&flags.FieldError{}, codeUsage},
		{errors.New("anything"), codeFailed},
		{usage(errors.New("x")), codeUsage},
	} {
		if code, _ := classify(fmt.Errorf("wrapped: %w", test.err)); code != test.code {
			t.Errorf("classify(%v) is exit code %d, want %d", test.err, code, test.code)
		}
	}
}
