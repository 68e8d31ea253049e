package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
)

// runAtTerminal runs a command line as a person who types input would see it.
func (s shell) runAtTerminal(input string, args ...string) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	a := &app{getenv: func(name string) string { return s.env[name] }, in: strings.NewReader(input), out: &out, errs: &errs, isTerminal: func(any) bool { return true }}
	code := a.run(s.t.Context(), args)
	return result{out.String(), errs.String(), code}
}

func TestRolloutWatch_DrawsATerminalAgainInPlace(t *testing.T) {
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		for _, step := range []string{"start", "skip"} {
			if r := s.run("rollout", step, "automation", "--actor", "ann"); r.code != 0 {
				t.Fatal(r.errs)
			}
		}
		execute(t, db, `UPDATE automation_rollouts SET watched = 7200`,
			`INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
			SELECT name, bake, 'other', 'exposed', epoch, stage, 1000, 9, 0, 0, 0, 2000000, 0, {now} FROM automation_rollouts`)
		out := &signalled{wrote: make(chan string, 100)}
		done := make(chan int)
		go func() {
			a := &app{getenv: func(n string) string { return s.env[n] }, in: strings.NewReader(""), out: out, errs: &bytes.Buffer{}, isTerminal: func(any) bool { return true }}
			done <- a.run(t.Context(), []string{"rollout", "watch", "automation", "--interval", "5ms"})
		}()
		first, second := <-out.wrote, <-out.wrote
		for _, want := range []string{"automation: running\n", "x   internal   0         24h0m0s   0s", ">   10 %       10        24h0m0s   22h0m0s", "    100 %      100       72h0m0s   72h0m0s",
			"with it   1,000      0.90 %   2ms", "without   0          -        0s", "automation: skip, now running"} {
			if !strings.Contains(first, want) {
				t.Errorf("there is no %q in\n%s", want, first)
			}
		}
		if up := fmt.Sprintf("\x1b[%dA\x1b[J", strings.Count(first, "\n")); !strings.HasPrefix(second, up) || strings.Contains(first, "\x1b") {
			t.Errorf("drawn again it begins with %.20q, want %q", second, up)
		}
		for line := range strings.Lines(first) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 79 {
				t.Errorf("a line has %d characters: %s", n, line)
			}
		}
		if r := s.run("rollout", "abort", "automation"); r.code != 0 {
			t.Fatal(r.errs)
		}
		for {
			select {
			case <-out.wrote:
				continue
			case code := <-done:
				if code != codeFailed {
					t.Errorf("exit %d", code)
				}
			}
			break
		}
	})
}

// The first stage of the deployment plan has 0 %, so it takes the feature from
// whoever has it by the percentage.
func TestRollout_AsksBeforeItTakesTheFeatureFromPeople(t *testing.T) {
	const takes = "takes the feature from users who have it: the flag is at 50 %, the first stage has 0 %"
	onBoth(t, func(t *testing.T, s shell, _ *sqlx.DB) {
		ready := func(percentage string) {
			t.Helper()
			if r := s.run("flags", "set", "automation", "--percentage", percentage, "--enabled", "true"); r.code != 0 {
				t.Fatal(r.errs)
			}
		}
		state := func() string {
			t.Helper()
			return regexp.MustCompile(`state +(\S+)`).FindString(s.run("rollout", "status", "automation").out)
		}
		expect := func(r result, code int, says string) {
			t.Helper()
			if r.code != code || !strings.Contains(r.errs, says) {
				t.Errorf("exit %d, %q; want %d and %q", r.code, r.errs, code, says)
			}
		}
		ready("50")
		expect(s.run("rollout", "start", "automation", "--dry-run"), 0, takes)
		expect(s.run("rollout", "start", "automation"), codeUsage, "say --yes if that is meant")
		expect(s.runAtTerminal("no\n", "rollout", "start", "automation"), codeUsage, "nothing was changed")
		expect(s.runAtTerminal("", "rollout", "start", "automation"), codeUsage, "say --yes if that is meant")
		if got := state(); got != "" {
			t.Errorf("a rollout is there: %s", got)
		}
		expect(s.runAtTerminal("yes\n", "rollout", "start", "automation"), 0, "Type yes to do it:")
		if got := state(); !strings.HasSuffix(got, "running") {
			t.Error(got)
		}
		expect(s.run("rollout", "start", "automation"), codeConflict, "not possible now") // and no question first
		expect(s.run("rollout", "promote", "automation"), 0, "")
		expect(s.run("rollout", "abort", "automation"), 0, "")
		expect(s.run("rollout", "restart", "automation", "--dry-run"), 0, "") // it is off: nobody has it
		ready("50")
		expect(s.run("rollout", "restart", "automation", "--dry-run"), 0, takes)
		expect(s.run("rollout", "restart", "automation"), codeUsage, "say --yes")
		expect(s.run("rollout", "restart", "automation", "--yes"), 0, "")
	})
}
