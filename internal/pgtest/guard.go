package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// guardScript runs a server and waits for its standard input to end, which happens when the
// test binary ends, however it ends; then it stops the server and removes its directory.
// Unless it was told "ended" before: then the server has ended already and nothing is removed.
// "frozen" names the stopped processes, which could not obey otherwise.
//
// The server and all its children hold the script's standard output, so its end says that the
// last of them is gone; the script itself lets go of it after printing the server's process id.
const guardScript = `
dir=$1 signal=$2; shift 2
"$@" </dev/null &
server=$!
echo "$server"
exec >/dev/null
frozen=
while read -r word pids; do
	case $word in
	frozen) frozen=$pids ;;
	ended) wait "$server"; exit 0 ;;
	esac
done
[ -z "$frozen" ] || kill -CONT $frozen
kill "-$signal" "$server"
wait "$server"
rm -rf -- "$dir"
`

// A server is one running server process with its children, under guard.
type server struct {
	pid      int
	guard    *exec.Cmd
	lifeline *os.File // to the guard; its end is the server's end
	alive    *os.File // ends when the last process of the server has ended
}

// launch starts argv as the owner; its standard error is appended to log. The guard ends it
// with signal, a name as kill(1) takes it, and removes dir.
func launch(o owner, dir, signal, log string, argv ...string) (_ *server, err error) {
	stderr, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	alive, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, lifeline.Close())
	}
	defer stdout.Close()

	guard := o.command("/bin/sh", append([]string{"-c", guardScript, "guard", dir, signal}, argv...)...)
	guard.Stdin, guard.Stdout, guard.Stderr = stdin, stdout, stderr
	s := &server{guard: guard, lifeline: lifeline, alive: alive}
	if err := guard.Start(); err != nil {
		return nil, errors.Join(err, lifeline.Close(), alive.Close())
	}
	if s.pid, err = readPID(alive); err != nil {
		return nil, errors.Join(err, lifeline.Close(), alive.Close(), guard.Wait())
	}
	return s, nil
}

// readPID reads one line and not a byte more.
func readPID(r io.Reader) (int, error) {
	var line strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, fmt.Errorf("pgtest: the guard did not say which process it started: %w", err)
		}
		if b[0] == '\n' {
			return strconv.Atoi(line.String())
		}
		line.WriteByte(b[0])
	}
}

// endsWithin waits at most d for the last process of the server to end.
func (s *server) endsWithin(d time.Duration) bool {
	if err := s.alive.SetReadDeadline(time.Now().Add(d)); err != nil {
		return true // closed: it had ended before
	}
	_, err := io.Copy(io.Discard, s.alive)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// tell sends the guard a line.
func (s *server) tell(word string, pids ...int) error {
	line := word
	for _, pid := range pids {
		line += " " + strconv.Itoa(pid)
	}
	_, err := io.WriteString(s.lifeline, line+"\n")
	return err
}

// end signals every one of pids, waits for the server's last process, and dismisses the guard.
func (s *server) end(sig syscall.Signal, pids ...int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtest: signal %v to process %d: %w", sig, pid, err)
		}
	}
	if !s.endsWithin(patience) {
		return fmt.Errorf("pgtest: process %d or a child of it still runs %v after signal %v", s.pid, patience, sig)
	}
	return s.dismiss()
}

// dismiss releases the guard of a server that has ended, leaving its directory.
func (s *server) dismiss() error {
	return errors.Join(s.tell("ended"), s.lifeline.Close(), s.alive.Close(), s.guard.Wait())
}
