package proctest_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
)

const childVariable = "PROCTEST_CHILD"

// TestMain runs the tests. A child process echoes its input instead, and exits with
// code 3 at the line "fail".
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if lines.Text() == "fail" {
			os.Exit(3)
		}
		fmt.Println(lines.Text())
	}
}

func startEcho(t *testing.T) *proctest.Process {
	t.Helper()
	return proctest.Start(t, proctest.Self(nil, childVariable+"=1"))
}

func wantLine(t *testing.T, p *proctest.Process, want string) {
	t.Helper()
	if line, ok := p.Line(); !ok || line != want {
		t.Errorf("the process wrote %q, %t; want %q", line, ok, want)
	}
}

func TestProcess_ExchangesLines(t *testing.T) {
	p := startEcho(t)
	p.WriteLine(t, "hello")
	wantLine(t, p, "hello")
	p.Send(t, map[string]int{"n": 1})
	wantLine(t, p, `{"n":1}`)
	long := strings.Repeat("x", 100_000) // more than a pipe or a bufio.Scanner holds
	p.WriteLine(t, long)
	if line, ok := p.Line(); !ok || line != long {
		t.Errorf("the process wrote %d bytes, %t; want %d", len(line), ok, len(long))
	}
	if err := p.End(); err != nil {
		t.Errorf("the process ended with %v, want exit code 0", err)
	}
	if _, ok := p.Line(); ok {
		t.Error("Line returns a line after the process has ended")
	}
}

func TestProcess_ReportsHowItEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		end    func(*proctest.Process)
		killed bool
	}{
		"killed":                    {(*proctest.Process).Kill, true},
		"killed while it is frozen": {func(p *proctest.Process) { p.Signal(t, syscall.SIGSTOP); p.Kill() }, true},
		"exited with code 3":        {func(p *proctest.Process) { p.WriteLine(t, "fail") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := startEcho(t)
			p.WriteLine(t, "hello")
			wantLine(t, p, "hello")
			tt.end(p)
			if err := p.Wait(); err == nil || proctest.WasKilled(err) != tt.killed {
				t.Errorf("the process ended with %v, want an error, killed: %t", err, tt.killed)
			}
			p.Kill() // must have no effect on an ended process
		})
	}
}
