package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	superuser = "postgres"
	// serverTimeout bounds each wait for a server to answer, end or freeze. It is
	// long enough for a machine at a load of 50.
	serverTimeout = 3 * time.Minute
	// pollInterval is the pause between two attempts to reach a starting server.
	pollInterval = 2 * time.Millisecond
)

// Options configure a cluster. The zero value is a fast cluster whose data survive a crash of the
// server, but not of the machine.
type Options struct {
	// Settings are parameters of postgresql.conf. They override this package's own settings.
	Settings map[string]string
	// Durable keeps the data on disk, fsync and full_page_writes on, as in production.
	Durable bool
}

// A Cluster is one PostgreSQL server that listens on a unix socket only. Its methods fail the
// test on an error, so only the test's goroutine may call them.
type Cluster struct {
	tb    testing.TB // nil in the shared cluster
	owner owner
	major int    // version
	dir   string // data, the socket and the log
	argv  []string

	mu      sync.Mutex
	running *server // nil: stopped
	frozen  []int   // ids of stopped processes, the postmaster's first
}

// Start starts a cluster for one test and removes it when the test ends. It is for tests that
// break servers; other tests share a cluster by calling [Database].
func Start(tb testing.TB, options Options) *Cluster {
	tb.Helper()
	skipShort(tb)
	c, err := newCluster(options)
	check(tb, err)
	c.tb = tb
	tb.Cleanup(c.remove)
	return c
}

// newCluster makes and starts a cluster.
func newCluster(options Options) (*Cluster, error) {
	bin, err := serverBin(binGlobs)
	if err != nil {
		return nil, err
	}
	o, err := serverOwner(options.Durable)
	if err != nil {
		return nil, err
	}
	template, major, err := o.template(bin)
	if err != nil {
		return nil, err
	}
	c := &Cluster{owner: o, major: major, dir: o.newPath("cluster")}
	data := filepath.Join(c.dir, "data")
	if err := o.run("/bin/sh", "-c", `mkdir -m 700 "$1" && cp -R "$2" "$1/data"`, "copy", c.dir, template); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	settings := map[string]string{
		"listen_addresses":           "",
		"port":                       "5432",
		"unix_socket_directories":    c.dir,
		"shared_buffers":             "16MB",
		"max_connections":            "500",
		"log_line_prefix":            "%m [%p] %d ",
		"dynamic_shared_memory_type": "mmap", // a container's /dev/shm is small
	}
	if !options.Durable {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
	}
	maps.Copy(settings, options.Settings)
	c.argv = []string{filepath.Join(bin, "postgres"), "-D", data}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		c.argv = append(c.argv, "-c", name+"="+settings[name])
	}
	if err := c.start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	return c, nil
}

// newPath returns an unused path for a directory of the owner.
func (o owner) newPath(kind string) string {
	return filepath.Join(o.home, kind+"-"+rand.Text()[:12])
}

// start starts the server and waits until it answers.
func (c *Cluster) start() error {
	log := filepath.Join(c.dir, "log")
	s, err := launch(c.owner, c.dir, "QUIT", log, c.argv...)
	if err != nil {
		return err
	}
	if err := s.waitReady(c.DSN(superuser), log); err != nil {
		return errors.Join(err, s.end(syscall.SIGQUIT, s.pid))
	}
	c.running = s
	return nil
}

// waitReady waits until the server answers at dsn. The error contains the server's log.
func (s *server) waitReady(dsn, log string) error {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), serverTimeout)
	defer cancel()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		if s.endsWithin(pollInterval) || ctx.Err() != nil {
			text, logErr := os.ReadFile(log)
			return fmt.Errorf("pgtest: the server does not start: %w; its log:\n%s", errors.Join(err, logErr), text)
		}
	}
}

// DSN returns the URL of a database of the cluster, for lib/pq and pgx. A new cluster has one
// database, "postgres".
func (c *Cluster) DSN(database string) string { return socketDSN(c.dir, database) }

// Stop shuts the server down and disconnects its clients. Stopping twice is not an error.
func (c *Cluster) Stop() {
	c.tb.Helper()
	check(c.tb, c.stop(syscall.SIGINT))
}

// Kill ends every process of the server with SIGKILL, as the kernel does when it runs out of
// memory, and returns when all have ended. Killing twice is not an error.
func (c *Cluster) Kill() {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		return
	}
	check(c.tb, c.freeze()) // so that the postmaster starts no child meanwhile
	check(c.tb, c.running.end(syscall.SIGKILL, c.frozen...))
	c.running, c.frozen = nil, nil
}

// Restart stops the server if it runs, and starts it with the same data.
func (c *Cluster) Restart() {
	c.tb.Helper()
	check(c.tb, c.stop(syscall.SIGINT))
	c.mu.Lock()
	defer c.mu.Unlock()
	check(c.tb, c.start())
}

// RestartAsStandby restarts the server in recovery: it serves reads and refuses
// writes, until pg_promote().
func (c *Cluster) RestartAsStandby() {
	c.tb.Helper()
	check(c.tb, c.stop(syscall.SIGINT))
	c.mu.Lock()
	defer c.mu.Unlock()
	check(c.tb, c.owner.run("touch", filepath.Join(c.dir, "data", "standby.signal")))
	check(c.tb, c.start())
}

func (c *Cluster) stop(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		return nil
	}
	if err := errors.Join(c.thaw(), c.running.end(sig, c.running.pid)); err != nil {
		return err
	}
	c.running = nil
	return nil
}

// remove ends the server at once and removes everything it wrote.
func (c *Cluster) remove() {
	if err := errors.Join(c.stop(syscall.SIGQUIT), os.RemoveAll(c.dir)); err != nil {
		c.tb.Error(err)
	}
}
