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

// migrated is a shell with a database that has its tables, and that database.
func migrated(t *testing.T, database string) (shell, *sqlx.DB) {
	t.Helper()
	s := shell{t, map[string]string{"DATABASE_URL": database}}
	if r := s.run("migrate", "up"); r.code != 0 {
		t.Fatal(r.errs)
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
	words := sqldb.New(db, sqldb.Options{})
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), words.Expand(s)); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestFlagsEvents_PrintsTheAuditAsJSON(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		s.run("flags", "set", "automation", "--percentage", "10", "--actor", "ann")
		var list []flagsql.Event
		if err := json.Unmarshal([]byte(s.run("flags", "events", "automation", "--json").out), &list); err != nil || len(list) != 2 || list[0].By != "ann" {
			t.Errorf("events %+v, error %v", list, err)
		}
	})
}

func TestFlagsSet_RecordsTheSystemUser(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		s.run("flags", "set", "automation", "--percentage", "10")
		if r := s.run("flags", "list"); !strings.Contains(r.out, systemUser(func(string) string { return "" })) {
			t.Error(r.out)
		}
	})
}

func TestCleanup_RemovesWhatItReports(t *testing.T) {
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
				t.Errorf("%v: exit %d, %v left\n%s%s", args, r.code, left(), r.out, r.errs)
			}
		}
		var audited []string
		if err := db.SelectContext(t.Context(), &audited, `SELECT feature_name || ' ' || changed_by FROM feature_flag_events WHERE action = 'cleanup'`); err != nil || len(audited) != 1 || !strings.HasPrefix(audited[0], "automation ") {
			t.Errorf("the audit has the clean-ups %q of a dry run and a run, error %v", audited, err)
		}
		s.env["AUTOMATION_RETENTION_DAYS"], s.env["AUTOMATION_DEFAULT_OPT_IN"] = "2", "true"
		if r := s.run("cleanup", "--yes", "--json"); r.code != 0 || !strings.Contains(r.out, `"total": 2`) || fmt.Sprint(left()) != "[off]" {
			t.Errorf("exit %d, %v left\n%s%s", r.code, left(), r.out, r.errs)
		}
		s.env["AUTOMATION_RETENTION_DAYS"] = "0"
		if r := s.run("cleanup", "--yes"); r.code != codeUsage || !strings.Contains(r.errs, "AUTOMATION_RETENTION_DAYS") {
			t.Errorf("exit %d\n%s", r.code, r.errs)
		}
		execute(t, db, `UPDATE automation_jobs SET lease_token = 'other', lease_until = {in 30}`)
		s.env["AUTOMATION_RETENTION_DAYS"] = "2"
		if r := s.run("cleanup", "--yes"); r.code != codeConflict || !strings.Contains(r.errs, "try again in a minute") {
			t.Errorf("exit %d\n%s", r.code, r.errs)
		}
	})
}

func TestCleanup_ShowsProgress(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		execute(t, db, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001) SELECT 'u' || i, TRUE, 3600, {in -9e6}, {in -9e6}, {in -9e6} FROM n`)
		if r := s.run("cleanup", "--yes", "--pause", "1us"); r.code != 0 || !strings.HasPrefix(r.errs, "removed 10,00") || !strings.Contains(r.out, "10,001 ") {
			t.Errorf("exit %d\n%s%s", r.code, r.out, r.errs)
		}
	})
}

// The bubble's clock moves by what is slept alone.
func TestCleanup_PausesAsItIsTold(t *testing.T) {
	for pause, want := range map[string]time.Duration{"0s": 0, "1s": 5 * time.Second} {
		t.Run(pause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, db := migrated(t, "sqlite:"+filepath.Join(t.TempDir(), "a.db"))
				execute(t, db, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
					WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT 'u' || i, TRUE, 3600, {in -9e6}, {in -9e6}, {in -9e6} FROM n`)
				began := time.Now()
				r := s.run("cleanup", "--yes", "--pause", pause)
				if took := time.Since(began); r.code != 0 || !strings.Contains(r.out, "1,000 ") || took.Round(time.Second) != want {
					t.Errorf("exit %d after pauses of %v, want %v\n%s%s", r.code, took, want, r.out, r.errs)
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
			t.Errorf("exit %d\n%s%s", r.code, r.out, r.errs)
		}
		var list []struct{ SQL string }
		if err := json.Unmarshal([]byte(s.run("verify", "--json").out), &list); err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		execute(t, db, list[0].SQL)
		if r := s.run("verify"); r.code != 0 {
			t.Error(r.out)
		}
		if db.DriverName() != "sqlite" {
			if r := s.run("verify", "--role", "nobody of that name"); r.code != codeNotFound || !strings.Contains(r.errs, `no such role: "nobody of that name"`) {
				t.Errorf("exit %d\n%s", r.code, r.errs)
			}
		}
	})
}

func TestVerify_WarnsOfSessionsThatNoRowExplains(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		if r := s.run("verify"); r.code != 0 || strings.Contains(r.out, "Warning") {
			t.Errorf("without any: exit %d\n%s", r.code, r.out)
		}
		execute(t, db, `UPDATE automation_wallet SET unexplained = 3, audited_at = {now}`)
		r := s.run("verify")
		if r.code != 0 || !strings.HasPrefix(r.out, "OK: ") || !strings.Contains(r.out, "Warning: automation_wallet wallet has 3 open sessions that no row of automation_sessions explains, as compared at 20") {
			t.Errorf("exit %d\n%s%s", r.code, r.out, r.errs)
		}
		var list []struct{ Severity, Object, SQL string }
		if err := json.Unmarshal([]byte(s.run("verify", "--json").out), &list); err != nil || len(list) != 1 || list[0].Severity != "warning" || !strings.HasPrefix(list[0].SQL, "--") {
			t.Error(list, err)
		}
		// What is missing comes first, and its exit code.
		execute(t, db, `DROP INDEX automation_sessions_due`)
		if r := s.run("verify"); r.code != codeFailed || strings.Contains(r.out, "Warning") {
			t.Errorf("exit %d\n%s", r.code, r.out)
		}
	})
}

// signalled is a writer that tells of each write.
type signalled struct {
	bytes.Buffer
	wrote chan string
}

func (s *signalled) Write(p []byte) (int, error) {
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

		out := &signalled{wrote: make(chan string, 100)}
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
				t.Fatalf("it ended with %d after %v", code, seen)
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
			t.Errorf("exit %d, seen %v", code, seen)
		}
	})
}

func TestFlagsSet_SaysWhatTheRolloutMakesOfIt(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		if r := s.run("rollout", "start", "automation", "--actor", "ann"); r.code != 0 {
			t.Fatal(r)
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
				t.Errorf("%v: %+v, want %q", c.args, r, c.want)
			}
		}
	})
}

func TestRolloutWatch_PrintsEveryStep(t *testing.T) {
	s, db := migrated(t, "sqlite:"+t.TempDir()+"/a.db")
	for _, step := range []string{"start", "skip", "pause"} {
		if r := s.run("rollout", step, "automation"); r.code != 0 {
			t.Fatal(r.errs)
		}
	}
	var out bytes.Buffer
	a := &app{out: &out}
	seen, err := a.printSteps(t.Context(), rollout.NewStore(db), rollout.Status{Name: "automation", Seq: 3}, 2) // 4, the pause, came after the look
	if err != nil || seen != 3 || !strings.Contains(out.String(), "automation: skip, ") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("seen %d, error %v\n%s", seen, err, &out)
	}
}

func TestRolloutWatch_WaitsForAnUnavailableDatabase(t *testing.T) {
	cluster := pgtest.Start(t, pgtest.Options{})
	s, _ := migrated(t, cluster.DSN("postgres"))
	if r := s.run("rollout", "start", "automation"); r.code != 0 {
		t.Fatal(r.errs)
	}
	errs := &signalled{wrote: make(chan string, 100)}
	done := make(chan int)
	go func() {
		done <- run(t.Context(), []string{"rollout", "watch", "automation", "--interval", "5ms"}, func(n string) string { return s.env[n] }, nil, &bytes.Buffer{}, errs)
	}()
	until := func(part string) {
		t.Helper()
		for {
			select {
			case text := <-errs.wrote:
				if strings.Contains(text, part) {
					return
				}
			case code := <-done:
				t.Fatalf("it ended with %d", code)
			}
		}
	}
	until("running")
	cluster.Stop()
	until("the database is away, waiting")
	cluster.Restart()
	until("running")
	if r := s.run("rollout", "abort", "automation"); r.code != 0 {
		t.Fatal(r.errs)
	}
	if code := <-done; code != codeFailed {
		t.Errorf("exit %d", code)
	}
}

func TestRolloutWatch_EndsWithItsContext(t *testing.T) {
	s, _ := migrated(t, "sqlite:"+t.TempDir()+"/a.db")
	if r := s.run("rollout", "start", "automation"); r.code != 0 {
		t.Fatal(r.errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &signalled{wrote: make(chan string, 100)}
	go func() { <-out.wrote; cancel() }()
	if code := run(ctx, []string{"rollout", "watch", "automation"}, func(n string) string { return s.env[n] }, nil, out, &bytes.Buffer{}); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestRolloutStart_ReadsAPlanFromStandardInput(t *testing.T) {
	s, _ := migrated(t, "sqlite:"+t.TempDir()+"/a.db")
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"rollout", "start", "automation", "--plan", "-", "--actor", "ann"}, func(n string) string { return s.env[n] }, strings.NewReader(files["plan.json"]), &out, &errs)
	if code != 0 || !strings.Contains(out.String(), "stage 1, all, 100 %") {
		t.Errorf("exit %d\n%s%s", code, &out, &errs)
	}
}

func TestFlagsList_ShortensLongListsInTables(t *testing.T) {
	var list []string
	for i := range 1234 {
		list = append(list, fmt.Sprint(1000+i))
	}
	if got := ids(flags.NewIDs(list...)); !strings.HasSuffix(got, "1019 and 1,214 more; --json has them all") {
		t.Error(got)
	}
	if got := short(strings.Repeat("ä", 61)); got != strings.Repeat("ä", 60)+"…" {
		t.Error(got)
	}
	if got := changes(flagsql.Event{Before: json.RawMessage("x"), After: json.RawMessage("{}")}); got != "x to {}" {
		t.Error(got)
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
			t.Errorf("%v: code %d, want %d", test.err, code, test.code)
		}
	}
}
