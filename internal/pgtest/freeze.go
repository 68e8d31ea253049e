package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Freeze stops every process of the server with SIGSTOP and returns when all have stopped:
// connections stay open, the kernel accepts new ones, and nothing answers.
func (c *Cluster) Freeze() {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	check(c.tb, c.freeze())
}

// Thaw undoes Freeze.
func (c *Cluster) Thaw() {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	check(c.tb, c.thaw())
}

// freeze stops the postmaster first, so that it makes no more children, and then the children
// one by one: each is a process group of its own.
func (c *Cluster) freeze() error {
	if c.running == nil {
		return errors.New("pgtest: freeze: the server does not run")
	}
	if c.frozen != nil {
		return nil
	}
	// The guard must know each process before it stops: this process may be killed at any time.
	pids := []int{c.running.pid}
	if err := errors.Join(c.running.notifyGuard("frozen", pids...), c.running.suspend(pids)); err != nil {
		return err
	}
	all, err := processes()
	if err != nil {
		return err
	}
	for pid, p := range all {
		if p.parent == c.running.pid {
			pids = append(pids, pid)
		}
	}
	c.frozen = pids
	return errors.Join(c.running.notifyGuard("frozen", pids...), c.running.suspend(pids[1:]))
}

func (c *Cluster) thaw() error {
	for _, pid := range slices.Backward(c.frozen) {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtest: thaw: process %d: %w", pid, err)
		}
	}
	if c.frozen == nil {
		return nil
	}
	c.frozen = nil
	return c.running.notifyGuard("frozen")
}

// suspend stops processes and waits until each has stopped or ended.
func (s *server) suspend(pids []int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtest: freeze: process %d: %w", pid, err)
		}
	}
	for deadline := time.Now().Add(serverTimeout); ; s.endsWithin(pollInterval) { // pauses
		all, err := processes()
		if err != nil {
			return err
		}
		isRunning := func(pid int) bool { p, ok := all[pid]; return ok && !strings.ContainsAny(p.state[:1], "TZX") }
		if !slices.ContainsFunc(pids, isRunning) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pgtest: freeze: processes %v still run %v after SIGSTOP", pids, serverTimeout)
		}
	}
}

// process is an entry of the process table.
type process struct {
	parent int    // process id
	state  string // as in ps: T stopped, Z zombie, X dead
}

// processes returns the machine's processes by id, from /proc if it exists, otherwise from ps.
func processes() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return psProcesses()
	}
	all := map[int]process{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		// The format is: pid (name) state parent …, where the name may contain anything.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 {
			return nil, fmt.Errorf("pgtest: /proc/%d/stat: cannot read %q", pid, stat)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("pgtest: /proc/%d/stat: %w", pid, err)
		}
		all[pid] = process{parent, fields[0]}
	}
	return all, nil
}

func psProcesses() (map[int]process, error) {
	out, err := exec.CommandContext(context.Background(), "ps", "-A", "-o", "pid=,ppid=,stat=").Output()
	if err != nil {
		return nil, fmt.Errorf("pgtest: ps: %w", err)
	}
	all := map[int]process{}
	for line := range strings.Lines(string(out)) {
		var pid int
		var p process
		if _, err := fmt.Sscan(line, &pid, &p.parent, &p.state); err != nil {
			return nil, fmt.Errorf("pgtest: ps: cannot read %q: %w", line, err)
		}
		all[pid] = p
	}
	return all, nil
}
