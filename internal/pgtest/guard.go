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

// guardScript runs a server and reads commands from standard input. At the end of its input,
// which comes when the test binary ends for whatever reason, it stops the server and removes its
// directory. The command "ended" means that the server has ended: the script exits and removes
// nothing. The command "frozen" lists stopped processes, which must continue before they can end.
//
// The server and all its children inherit the script's standard output. The script itself closes
// it after printing the server's process id, so its end means that all server processes have ended.
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

// A server is one running server process with its children and its guard.
type server struct {
	pid      int
	guard    *exec.Cmd
	commands *os.File // the guard's input; it ends the server when this is closed
	alive    *os.File // the guard's output; at EOF when the last process of the server has ended
}

// launch starts argv as the owner and appends its standard error to log. If the test binary
// ends, the guard ends the server with signal, a name that kill(1) accepts, and removes dir.
func launch(o owner, dir, signal, log string, argv ...string) (_ *server, err error) {
	stderr, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	stdin, commands, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	alive, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, commands.Close())
	}
	defer stdout.Close()

	guard := o.command("/bin/sh", append([]string{"-c", guardScript, "guard", dir, signal}, argv...)...)
	guard.Stdin, guard.Stdout, guard.Stderr = stdin, stdout, stderr
	s := &server{guard: guard, commands: commands, alive: alive}
	if err := guard.Start(); err != nil {
		return nil, errors.Join(err, commands.Close(), alive.Close())
	}
	if s.pid, err = readPID(alive); err != nil {
		return nil, errors.Join(err, commands.Close(), alive.Close(), guard.Wait())
	}
	return s, nil
}

// readPID reads a process id from the first line, and no byte beyond it.
func readPID(r io.Reader) (int, error) {
	var line strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, fmt.Errorf("pgtest: the guard did not report the id of its server: %w", err)
		}
		if b[0] == '\n' {
			return strconv.Atoi(line.String())
		}
		line.WriteByte(b[0])
	}
}

// endsWithin waits for d at most and reports whether the last process of the server has ended.
func (s *server) endsWithin(d time.Duration) bool {
	if err := s.alive.SetReadDeadline(time.Now().Add(d)); err != nil {
		return true // closed, because the server has ended
	}
	_, err := io.Copy(io.Discard, s.alive)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// notifyGuard sends a command to the guard.
func (s *server) notifyGuard(command string, pids ...int) error {
	line := command
	for _, pid := range pids {
		line += " " + strconv.Itoa(pid)
	}
	_, err := io.WriteString(s.commands, line+"\n")
	return err
}

// end sends a signal to each of pids, waits until the last process of the server has ended, and
// ends the guard.
func (s *server) end(sig syscall.Signal, pids ...int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtest: signal %v to process %d: %w", sig, pid, err)
		}
	}
	if !s.endsWithin(serverTimeout) {
		return fmt.Errorf("pgtest: process %d or a child of it still runs %v after signal %v", s.pid, serverTimeout, sig)
	}
	return s.dismiss()
}

// dismiss ends the guard of a server that has ended. The directory remains.
func (s *server) dismiss() error {
	return errors.Join(s.notifyGuard("ended"), s.commands.Close(), s.alive.Close(), s.guard.Wait())
}
