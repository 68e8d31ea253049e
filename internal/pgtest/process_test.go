package pgtest_test

import (
	"bufio"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// childEnv is set in the child process that runs TestChildProcess.
const childEnv = "PGTEST_CHILD"

func TestChildProcess(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("runs only in the child process that another test kills")
	}
	c := pgtest.Start(t, pgtest.Options{})
	if os.Getenv(childEnv) == "frozen" {
		c.Freeze()
	}
	if _, err := os.Stdout.WriteString("\n" + c.DSN("postgres") + "\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

func TestGuard_RemovesEverythingOfAKilledTestBinary(t *testing.T) {
	pgtest.NeedServer(t)
	t.Parallel()
	for _, state := range []string{"running", "frozen"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			// All descendants of the child inherit this pipe, so it ends when the last of them has ended.
			descendants, inherited, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer descendants.Close()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildProcess$")
			child.Env = append(os.Environ(), childEnv+"="+state)
			child.ExtraFiles = []*os.File{inherited}
			stdin, stdinErr := child.StdinPipe()
			stdout, stdoutErr := child.StdoutPipe()
			if stdinErr != nil || stdoutErr != nil {
				t.Fatal(stdinErr, stdoutErr)
			}
			defer stdin.Close()
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			if err := inherited.Close(); err != nil {
				t.Fatal(err)
			}
			dir := ""
			for lines := bufio.NewScanner(stdout); dir == "" && lines.Scan(); {
				if u, err := url.Parse(lines.Text()); err == nil && u.Scheme == "postgres" {
					dir = u.Query().Get("host")
				}
			}
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("the child's cluster has no directory: %v", err)
			}
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = child.Wait() // returns that it was killed
			if err := descendants.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, descendants); err != nil {
				t.Errorf("a process of the child is still running: %v", err)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s still exists, error %v", dir, err)
			}
		})
	}
}

func TestStart_RunsAsAnOrdinaryUser(t *testing.T) {
	if testing.Short() {
		t.Skip("runs this test binary again, with PostgreSQL")
	}
	if os.Getuid() != 0 {
		t.Skip("all tests of this run already run as an ordinary user")
	}
	t.Parallel()
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	// The user nobody cannot enter the directory of the test binary, so the test copies it.
	dir, err := os.MkdirTemp("/tmp", "pgtest-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another process writes the copy. If this one did, processes that parallel tests fork meanwhile
	// would inherit the open file, and the program could not be executed until they exec.
	program := filepath.Join(dir, "pgtest.test")
	if out, err := exec.CommandContext(t.Context(), "install", "-m", "755", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("copy the test binary: %v\n%s", err, out)
	}
	for name, tests := range map[string]string{
		"a server": "^(TestDatabase_IsIsolatedFromOthers|TestCluster_KeepsAcknowledgedRowsWhenKilled|TestCluster_AnswersAgainAfterThaw)$",
		"a pooler": "^TestPgBouncer_PoolsTransactions$",
	} {
		t.Run(name, func(t *testing.T) {
			run := exec.CommandContext(t.Context(), program, "-test.v", "-test.run="+tests)
			run.Dir = "/"
			run.Env = append(os.Environ(), "HOME=/nonexistent", "TMPDIR=/tmp")
			run.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
			out, err := run.CombinedOutput()
			switch {
			case err != nil:
				t.Errorf("the tests fail as the user nobody: %v\n%s", err, out)
			case strings.Contains(string(out), "--- SKIP"):
				t.Skipf("a test is skipped as the user nobody:\n%s", out)
			}
		})
	}
}
