package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
)

// runAtTerminal runs a command line at a terminal on which somebody types input.
func (s shell) runAtTerminal(input string, args ...string) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	a := &app{getenv: func(name string) string { return s.env[name] }, in: strings.NewReader(input), out: &out, errs: &errs, isTerminal: func(any) bool { return true }}
	code := a.run(s.t.Context(), args)
	return result{out.String(), errs.String(), code}
}

func TestRolloutWatch_RedrawsATerminalInPlace(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		for _, step := range []string{"start", "skip"} {
			if r := s.run("rollout", step, "automation", "--actor", "ann"); r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.errs)
			}
		}
		execute(t, db, `UPDATE automation_rollouts SET watched = 7200`,
			`INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
			SELECT name, bake, 'other', 'exposed', epoch, stage, 1000, 9, 0, 0, 0, 2000000, 0, {now} FROM automation_rollouts`)
		out := &notifyingWriter{wrote: make(chan string, 100)}
		done := make(chan int)
		go func() {
			a := &app{getenv: func(n string) string { return s.env[n] }, in: strings.NewReader(""), out: out, errs: &bytes.Buffer{}, isTerminal: func(any) bool { return true }}
			done <- a.run(t.Context(), []string{"rollout", "watch", "automation", "--interval", "5ms"})
		}()
		first, second := <-out.wrote, <-out.wrote
		for _, want := range []string{"automation: running\n", "x   internal   0         24h0m0s   0s", ">   10 %       10        24h0m0s   22h0m0s", "    100 %      100       72h0m0s   72h0m0s",
			"exposed   1,000      0.90 %   2ms", "control   0          -        0s", "automation: skip, now running"} {
			if !strings.Contains(first, want) {
				t.Errorf("the first drawing lacks %q:\n%s", want, first)
			}
		}
		if up := fmt.Sprintf("\x1b[%dA\x1b[J", strings.Count(first, "\n")); !strings.HasPrefix(second, up) || strings.Contains(first, "\x1b") {
			t.Errorf("the second drawing begins with %.20q, want %q, and the first one contains no escapes", second, up)
		}
		for line := range strings.Lines(first) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 79 {
				t.Errorf("a line has %d characters, want at most 79: %s", n, line)
			}
		}
		if r := s.run("rollout", "abort", "automation"); r.code != 0 {
			t.Fatalf("exit %d: %s", r.code, r.errs)
		}
		for {
			select {
			case <-out.wrote:
				continue
			case code := <-done:
				if code != codeFailed {
					t.Errorf("exit %d after an abort, want %d", code, codeFailed)
				}
			}
			break
		}
	})
}

// The first stage of the deployment plan has 0 %, so it takes the feature away from the
// users who have it because of the percentage.
func TestRollout_AsksBeforeItTakesTheFeatureAway(t *testing.T) {
	const takes = "takes the feature away from users: the flag is at 50 %, the first stage has 0 %"
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		setPercentage := func(percentage string) {
			t.Helper()
			if r := s.run("flags", "set", "automation", "--percentage", percentage, "--enabled", "true"); r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.errs)
			}
		}
		state := func() string {
			t.Helper()
			return regexp.MustCompile(`state +(\S+)`).FindString(s.run("rollout", "status", "automation").out)
		}
		expect := func(r result, code int, text string) {
			t.Helper()
			if r.code != code || !strings.Contains(r.errs, text) {
				t.Errorf("exit %d, standard error %q; want %d and %q", r.code, r.errs, code, text)
			}
		}
		setPercentage("50")
		expect(s.run("rollout", "start", "automation", "--dry-run"), 0, takes)
		expect(s.run("rollout", "start", "automation"), codeUsage, "use --yes to confirm")
		expect(s.runAtTerminal("no\n", "rollout", "start", "automation"), codeUsage, "nothing was changed")
		expect(s.runAtTerminal("", "rollout", "start", "automation"), codeUsage, "use --yes to confirm")
		if got := state(); got != "" {
			t.Errorf("there is a rollout with %q, want none", got)
		}
		expect(s.runAtTerminal("yes\n", "rollout", "start", "automation"), 0, "Type yes to confirm:")
		if got := state(); !strings.HasSuffix(got, "running") {
			t.Errorf("rollout status shows %q, want the state running", got)
		}
		expect(s.run("rollout", "start", "automation"), codeConflict, "not possible now") // without a question before
		expect(s.run("rollout", "promote", "automation"), 0, "")
		expect(s.run("rollout", "abort", "automation"), 0, "")
		expect(s.run("rollout", "restart", "automation", "--dry-run"), 0, "") // no question, because the flag is off
		setPercentage("50")
		expect(s.run("rollout", "restart", "automation", "--dry-run"), 0, takes)
		expect(s.run("rollout", "restart", "automation"), codeUsage, "use --yes")
		expect(s.run("rollout", "restart", "automation", "--yes"), 0, "")
	})
}
