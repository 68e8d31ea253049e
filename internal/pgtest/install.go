package pgtest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errMissing means that a program has to be installed first.
var errMissing = errors.New("not installed")

// An owner is the user that runs the servers.
type owner struct {
	uid        int
	credential *syscall.Credential // nil: the user that runs the test
	home       string              // private directory of all clusters
}

// serverOwner returns the user that runs the test, or nobody if that is root, as which
// PostgreSQL does not run. The owner's home is in memory if there is room, which is 15 times
// faster, unless it has to be on disk.
func serverOwner(onDisk bool) (owner, error) {
	o := owner{uid: os.Getuid()}
	if o.uid == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			return o, fmt.Errorf("pgtest: PostgreSQL refuses to run as root, and there is no other user to run it: %w", err)
		}
		uid, uidErr := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(nobody.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return o, fmt.Errorf("pgtest: user nobody: %w", err)
		}
		o.uid, o.credential = int(uid), &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	// Never TMPDIR: a socket's path may have about 100 bytes, and nobody may not enter root's
	// TMPDIR.
	base := "/tmp"
	if !onDisk && roomy("/dev/shm") {
		base = "/dev/shm"
	}
	o.home = filepath.Join(base, "pgtest-"+strconv.Itoa(o.uid))
	if err := o.run("mkdir", "-p", "-m", "700", o.home); err != nil {
		return o, err
	}
	return o, o.owns(o.home)
}

// owns checks that no other user made dir to have its content trusted.
func (o owner) owns(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != o.uid || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("pgtest: %s is not a private directory of uid %d: remove it", dir, o.uid)
	}
	return nil
}

// roomy reports whether a directory exists and has 1 GiB free; a container's /dev/shm often
// has 64 MiB, and a cluster takes 30.
func roomy(dir string) bool {
	var stat syscall.Statfs_t
	return syscall.Statfs(dir, &stat) == nil && stat.Bavail*uint64(stat.Bsize) >= 1<<30
}

// command prepares a program that runs as the owner, with a minimal environment and in a new
// session. A new process group would ignore the terminal's Ctrl-C as well, but when the test
// binary dies the kernel sends SIGHUP to an orphaned group with a stopped member, which would
// end the guard of a frozen server.
func (o owner) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential, Setsid: true}
	return cmd
}

// run runs a program as the owner to its end; the error contains its output.
func (o owner) run(name string, args ...string) error {
	out, err := o.command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}

// binGlobs is where packages put the servers' binaries: Debian, Red Hat, Homebrew, Postgres.app.
var binGlobs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// serverBin returns the directory of initdb and postgres: the one on PATH, or the newest
// installed.
func serverBin(globs []string) (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// A link in /usr/bin leads to the directory that also has the rest.
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil && executable(filepath.Join(filepath.Dir(initdb), "postgres")) {
			return filepath.Dir(initdb), nil
		}
	}
	var found []string
	for _, glob := range globs {
		dirs, _ := filepath.Glob(glob) // the only error is a bad pattern
		for _, dir := range dirs {
			if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
				found = append(found, dir)
			}
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("pgtest: no PostgreSQL server (initdb, postgres) on PATH or in %s: %w; try apt-get install postgresql, or brew install postgresql@17",
			strings.Join(globs, ", "), errMissing)
	}
	return slices.MaxFunc(found, func(a, b string) int {
		return cmp.Compare(lastNumber(filepath.Dir(a)), lastNumber(filepath.Dir(b)))
	}), nil
}

var digits = regexp.MustCompile(`\d+`)

// lastNumber returns the last number in a path's base name, its version, or 0.
func lastNumber(path string) int {
	all := digits.FindAllString(filepath.Base(path), -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1]) // 0 where it does not fit
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// template returns a directory that initdb made, to be copied, and its major version. It is
// made once for each version of PostgreSQL and set of options; of two that make it at once the
// first to finish wins.
func (o owner) template(bin string) (dir string, major int, err error) {
	version, err := o.command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", 0, fmt.Errorf("pgtest: %s --version: %w", filepath.Join(bin, "postgres"), err)
	}
	locale := "C.UTF-8"
	if runtime.GOOS == "darwin" {
		locale = "C" // it has no C.UTF-8
	}
	args := []string{"-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=" + locale, "--no-sync", "--no-instructions", "--wal-segsize=1"}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%q", version, bin, args))
	if major, err = strconv.Atoi(digits.FindString(string(version))); err != nil {
		return "", 0, fmt.Errorf("pgtest: no version in %q", version)
	}
	dir = filepath.Join(o.home, fmt.Sprintf("template-%d-%x", major, key[:6]))
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
		return dir, major, nil
	}
	fresh := o.newPath("initdb")
	if err := o.run(filepath.Join(bin, "initdb"), append(args, "-D", fresh)...); err != nil {
		return "", 0, errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(fresh, dir); err != nil {
		if err := os.RemoveAll(fresh); err != nil {
			return "", 0, fmt.Errorf("pgtest: %w", err)
		}
		if !errors.Is(err, os.ErrExist) {
			return "", 0, fmt.Errorf("pgtest: %w", err)
		}
	}
	return dir, major, nil
}
