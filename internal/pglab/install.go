package pglab

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

// errMissing says that a program has to be installed first.
var errMissing = errors.New("not installed")

// An owner is the user who runs the servers.
type owner struct {
	uid        int
	credential *syscall.Credential // nil: the user who runs the test
	home       string              // private directory of all clusters
}

// serverOwner is the user who runs the test, or nobody for root, whom PostgreSQL refuses.
// The owner's home is in memory where there is room, 15 times faster; on disk if asked for.
func serverOwner(onDisk bool) (owner, error) {
	o := owner{uid: os.Getuid()}
	if o.uid == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			return o, fmt.Errorf("pglab: PostgreSQL refuses to run as root, and there is no other user to run it: %w", err)
		}
		uid, uidErr := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(nobody.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return o, fmt.Errorf("pglab: user nobody: %w", err)
		}
		o.uid, o.credential = int(uid), &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	// Never TMPDIR: a socket's path has room for about 100 bytes only, and root's TMPDIR may be
	// closed to nobody.
	base := "/tmp"
	if !onDisk && roomy("/dev/shm") {
		base = "/dev/shm"
	}
	o.home = filepath.Join(base, "pglab-"+strconv.Itoa(o.uid))
	if err := o.run("mkdir", "-p", "-m", "700", o.home); err != nil {
		return o, err
	}
	info, err := os.Lstat(o.home)
	if err != nil {
		return o, fmt.Errorf("pglab: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != o.uid || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return o, fmt.Errorf("pglab: %s is not a private directory of uid %d: remove it", o.home, o.uid)
	}
	return o, nil
}

// roomy tells whether a directory is there and has 1 GiB free; a container's /dev/shm often
// has 64 MiB, and a cluster takes 30.
func roomy(dir string) bool {
	var stat syscall.Statfs_t
	return syscall.Statfs(dir, &stat) == nil && stat.Bavail*uint64(stat.Bsize) >= 1<<30
}

// command prepares a program of the owner's: in a process group of its own, out of reach of
// the terminal's Ctrl-C, with no variable of the environment to lead it astray.
func (o owner) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential, Setpgid: true}
	return cmd
}

// run runs a program of the owner's to its end; the error holds what it printed.
func (o owner) run(name string, args ...string) error {
	out, err := o.command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pglab: %s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}

// Where packages put the servers' binaries, off PATH: Debian, Red Hat, Homebrew, Postgres.app.
var binGlobs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// serverBin finds the directory of initdb and postgres: PATH's, or the newest installed.
func serverBin() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// A link in /usr/bin leads to the directory that also has the rest.
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil && executable(filepath.Join(filepath.Dir(initdb), "postgres")) {
			return filepath.Dir(initdb), nil
		}
	}
	var found []string
	for _, glob := range binGlobs {
		dirs, _ := filepath.Glob(glob) // the only error is a bad pattern
		for _, dir := range dirs {
			if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
				found = append(found, dir)
			}
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("pglab: no PostgreSQL server (initdb, postgres) on PATH or in %s: %w; try apt-get install postgresql, or brew install postgresql@17",
			strings.Join(binGlobs, ", "), errMissing)
	}
	return slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(majorVersion(a), majorVersion(b)) }), nil
}

var digits = regexp.MustCompile(`\d+`)

// majorVersion is the first number in a path or in what postgres --version prints; 0 if none.
func majorVersion(s string) int {
	n, _ := strconv.Atoi(digits.FindString(s))
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// template returns a directory that initdb made, to be copied, and its major version. It is made once per version of
// PostgreSQL and set of options; whoever is second to finish uses the first one's.
func (o owner) template(bin string) (dir string, major int, err error) {
	version, err := o.command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", 0, fmt.Errorf("pglab: %s --version: %w", filepath.Join(bin, "postgres"), err)
	}
	locale := "C.UTF-8"
	if runtime.GOOS == "darwin" {
		locale = "C" // it has no C.UTF-8
	}
	args := []string{"-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=" + locale, "--no-sync", "--no-instructions", "--wal-segsize=1"}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%q", version, bin, args))
	major = majorVersion(string(version))
	dir = filepath.Join(o.home, fmt.Sprintf("template-%d-%x", major, key[:6]))
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
		return dir, major, nil
	}
	fresh := o.newPath("initdb")
	defer os.RemoveAll(fresh)
	if err := o.run(filepath.Join(bin, "initdb"), append(args, "-D", fresh)...); err != nil {
		return "", 0, err
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", 0, fmt.Errorf("pglab: %w", err)
	}
	return dir, major, nil
}
