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

// errMissing means that a required program is not installed.
var errMissing = errors.New("not installed")

// An owner is the user that runs the servers.
type owner struct {
	uid        int
	credential *syscall.Credential // nil: the user that runs the test
	home       string              // private directory with all clusters
}

// serverOwner returns the user that runs the servers: the current one, or the user nobody if that
// is root, because PostgreSQL refuses to run as root. Unless onDisk is set, the owner's home is in
// memory if there is room, which is 15 times faster.
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
	// TMPDIR is not used: a socket's path is limited to about 100 bytes, and the user nobody cannot
	// enter root's TMPDIR.
	base := "/tmp"
	if !onDisk && hasRoom("/dev/shm") {
		base = "/dev/shm"
	}
	o.home = filepath.Join(base, "pgtest-"+strconv.Itoa(o.uid))
	if err := o.run("mkdir", "-p", "-m", "700", o.home); err != nil {
		return o, err
	}
	return o, o.checkOwns(o.home)
}

// checkOwns returns an error unless dir is a private directory of the owner. Another user may have
// made it, so its content cannot be trusted.
func (o owner) checkOwns(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != o.uid || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("pgtest: %s is not a private directory of uid %d: remove it", dir, o.uid)
	}
	return nil
}

// hasRoom reports whether a directory exists and has 1 GiB free. A cluster takes 30 MiB, and a
// container's /dev/shm often has 64 MiB only.
func hasRoom(dir string) bool {
	var stat syscall.Statfs_t
	return syscall.Statfs(dir, &stat) == nil && stat.Bavail*uint64(stat.Bsize) >= 1<<30
}

// command prepares a program that runs as the owner, with a minimal environment and in a new
// session, so that the terminal's Ctrl-C does not reach it. A new process group is not enough:
// when the test binary dies, the kernel sends SIGHUP to an orphaned group with a stopped member,
// which would end the guard of a frozen server.
func (o owner) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential, Setsid: true}
	return cmd
}

// run runs a program as the owner and waits for its end. The error contains its output.
func (o owner) run(name string, args ...string) error {
	out, err := o.command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}

// binGlobs match the directories in which packages install the server's binaries: those of Debian,
// Red Hat, Homebrew and Postgres.app.
var binGlobs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// serverBin returns the directory with initdb and postgres: the one on PATH, or the newest that the
// globs match.
func serverBin(globs []string) (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// /usr/bin may have only a link to initdb; postgres is next to the link's target.
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil && isExecutable(filepath.Join(filepath.Dir(initdb), "postgres")) {
			return filepath.Dir(initdb), nil
		}
	}
	var found []string
	for _, glob := range globs {
		dirs, _ := filepath.Glob(glob) // the only error is a bad pattern
		for _, dir := range dirs {
			if isExecutable(filepath.Join(dir, "initdb")) && isExecutable(filepath.Join(dir, "postgres")) {
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

// lastNumber returns the last number in a path's base name, which is the version, or 0.
func lastNumber(path string) int {
	all := digits.FindAllString(filepath.Base(path), -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// template returns a data directory to copy, and PostgreSQL's major version. initdb makes one for
// each version and set of options. If two processes make the same one, the first to finish wins.
func (o owner) template(bin string) (dir string, major int, err error) {
	version, err := o.command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", 0, fmt.Errorf("pgtest: %s --version: %w", filepath.Join(bin, "postgres"), err)
	}
	locale := "C.UTF-8"
	if runtime.GOOS == "darwin" {
		locale = "C" // macOS has no C.UTF-8
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
		removeErr := os.RemoveAll(fresh)
		if removeErr != nil || !errors.Is(err, os.ErrExist) { // if it exists, another process was first
			return "", 0, fmt.Errorf("pgtest: %w", errors.Join(err, removeErr))
		}
	}
	return dir, major, nil
}
