// Package proctest runs programs as child processes of a test. The test exchanges
// lines with them, and can kill, freeze or end them.
//
//	replica := proctest.Start(t, proctest.Self(nil, "TEST_REPLICA="+config))
//	replica.Send(t, work{Users: 3})
//	line, ok := replica.Line()
//	replica.Kill()
//
// In the child, TestMain, or the test that the arguments of [Self] select, finds the
// variable and runs the replica, which reads standard input and writes standard
// output. [StartServer] starts the example server.
//
// Only _test.go files may import this package.
package proctest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// maxLine bounds a line of a process's output, in bytes.
const maxLine = 64 << 20

// Self returns the command that runs the test binary again with args, and with env
// added to the environment. It shares the test's standard error. With the race
// detector a race ends the process, which then exits without the usual pause of a second.
func Self(args []string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), os.Args[0], args...)
	cmd.Env = slices.Concat(os.Environ(), []string{"GORACE=atexit_sleep_ms=0 halt_on_error=1"}, env)
	cmd.Stderr = os.Stderr
	return cmd
}

// Process is a running child process. Only one goroutine may call Line at a time; the
// other methods may be called concurrently.
type Process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	wait  func() error
}

// Start starts a command and kills the process when the test ends. A process that has
// written 64 KiB, which a pipe holds, blocks until its lines are read.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{cmd: cmd, in: in, lines: bufio.NewScanner(out), wait: sync.OnceValue(cmd.Wait)}
	p.lines.Buffer(nil, maxLine)
	t.Cleanup(p.Kill)
	return p
}

// Line waits for the next line that the process writes. It returns false when the
// process has ended.
func (p *Process) Line() (string, bool) {
	ok := p.lines.Scan()
	return p.lines.Text(), ok
}

// WriteLine writes a line to the process's standard input.
func (p *Process) WriteLine(t testing.TB, line string) {
	t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		t.Errorf("cannot write to the process: %v", err)
	}
}

// Send writes v as one line of JSON.
func (p *Process) Send(t testing.TB, v any) {
	t.Helper()
	line, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	p.WriteLine(t, string(line))
}

// Signal sends a signal. SIGSTOP freezes the process until SIGCONT or Kill.
func (p *Process) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Errorf("cannot send signal %v to the process: %v", signal, err)
	}
}

// Kill ends the process as kill -9 does, and returns when it has ended.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.wait()
}

// Terminate sends SIGTERM and checks that the process then ends by itself, with
// exit code 0.
func (p *Process) Terminate(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Errorf("after SIGTERM the process ended with %v, want exit code 0", err)
	}
}

// CloseInput closes the process's standard input.
func (p *Process) CloseInput() { _ = p.in.Close() }

// End closes the process's standard input and then waits as Wait does.
func (p *Process) End() error {
	p.CloseInput()
	return p.wait()
}

// Wait returns when the process has ended, with an error unless it exited with
// code 0. Lines that were not read by then are lost.
func (p *Process) Wait() error { return p.wait() }

// WasKilled reports whether an error of Wait says that SIGKILL ended the process.
func WasKilled(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}
