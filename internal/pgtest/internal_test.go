package pgtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorder records how a test would have ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()          {}
func (r *recorder) Skip(args ...any) { r.ended = "skip: " + fmt.Sprint(args...); runtime.Goexit() }
func (r *recorder) Fatal(args ...any) {
	r.ended = "fatal: " + fmt.Sprint(args...)
	runtime.Goexit()
}
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

// runAsTest runs f as a test and returns how it ended, or "" if it passed.
func runAsTest(t *testing.T, f func(tb testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() { defer close(done); f(r) }()
	<-done
	return r.ended
}

func TestCheck_SkipsWithoutAProgramUnlessItIsRequired(t *testing.T) {
	t.Setenv("PATH", "")
	_, noServer := serverBin([]string{"/nonexistent/*/bin"})
	_, noPooler := findPgBouncer("/nonexistent/pgbouncer")
	for _, tt := range []struct {
		name, required string
		err            error
		want           []string
	}{
		{"no server on a laptop", "", noServer, []string{"skip: ", "no PostgreSQL server", "/nonexistent/*/bin", "apt-get install postgresql"}},
		{"no server in CI", "1", noServer, []string{"fatal: ", "no PostgreSQL server"}},
		{"no pooler on a laptop", "0", noPooler, []string{"skip: ", "no pgbouncer", "apt-get install pgbouncer"}},
		{"no pooler in CI", "1", noPooler, []string{"fatal: ", "no pgbouncer"}},
		{"another error on a laptop", "", errors.New("disk full"), []string{"fatal: ", "disk full"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("AUTOMATION_TEST_REQUIRE_POSTGRES", tt.required)
			got := runAsTest(t, func(tb testing.TB) { check(tb, tt.err) })
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("the test ended with %q, want %q in it", got, want)
				}
			}
		})
	}
}

func TestServerBin_PrefersPATHAndThenTheNewestServer(t *testing.T) {
	root := t.TempDir()
	install := func(parts ...string) string {
		dir := filepath.Join(append([]string{root}, parts...)...)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"initdb", "postgres"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	globs := []string{root + "/lib/*/bin"}
	install("lib", "9", "bin")
	newest := install("lib", "17", "bin")
	install("lib", "16", "bin")
	t.Setenv("PATH", "")
	if got, err := serverBin(globs); got != newest || err != nil {
		t.Errorf("with an empty PATH: got %s, %v; want the newest, %s", got, err, newest)
	}
	mine := install("mine")
	linked := filepath.Join(root, "links")
	if err := errors.Join(os.Mkdir(linked, 0o755), os.Symlink(filepath.Join(mine, "initdb"), filepath.Join(linked, "initdb"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", linked)
	if got, err := serverBin(globs); got != mine || err != nil {
		t.Errorf("with initdb on PATH: got %s, %v; want %s", got, err, mine)
	}
}

func TestOwner_MakesATemplateOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("runs initdb twice")
	}
	t.Parallel()
	bin, err := serverBin(binGlobs)
	check(t, err)
	o, err := serverOwner(false)
	check(t, err)
	o.home = o.newPath("home")
	check(t, o.run("mkdir", "-m", "700", o.home))
	t.Cleanup(func() { check(t, os.RemoveAll(o.home)) })
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if _, _, err := o.template(bin); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	entries, err := os.ReadDir(o.home)
	if err != nil || len(entries) != 1 || !strings.HasPrefix(entries[0].Name(), "template-") {
		t.Errorf("the home contains %v, error %v; want one template", entries, err)
	}
	if _, _, err := o.template(t.TempDir()); err == nil {
		t.Error("no error for a directory without a server")
	}
}

func TestOwner_RejectsADirectoryThatAnotherUserMayHaveMade(t *testing.T) {
	t.Parallel()
	o := owner{uid: os.Getuid()}
	root := t.TempDir()
	path := func(name string) string { return filepath.Join(root, name) }
	if err := errors.Join(os.Mkdir(path("private"), 0o700), os.Mkdir(path("open"), 0o755),
		os.Symlink(path("private"), path("link")), os.WriteFile(path("file"), nil, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := o.checkOwns(path("private")); err != nil {
		t.Errorf("the owner's private directory is rejected: %v", err)
	}
	for _, name := range []string{"open", "link", "file", "absent"} {
		if o.checkOwns(path(name)) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if (owner{uid: o.uid + 1}).checkOwns(path("private")) == nil {
		t.Error("another user's directory is accepted")
	}
}

func TestStart_ShowsTheServersLogWhenItFails(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	NeedServer(t)
	t.Parallel()
	got := runAsTest(t, func(tb testing.TB) { Start(tb, Options{Settings: map[string]string{"no_such_parameter": "1"}}) })
	if !strings.HasPrefix(got, "fatal: ") || !strings.Contains(got, `unrecognized configuration parameter "no_such_parameter"`) {
		t.Errorf("the test ended with %q, want the server's log in it", got)
	}
}

func TestOpen_RejectsAnUnknownDriver(t *testing.T) {
	t.Setenv("AUTOMATION_TEST_DRIVER", "mysql")
	if got := runAsTest(t, func(tb testing.TB) { Open(tb, "postgres://") }); !strings.Contains(got, `"mysql": want postgres or pgx`) {
		t.Errorf("the test ended with %q, want an error that names the drivers", got)
	}
}

func TestCluster_FailsTheTestWhenItDoesNotRun(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	c.Stop()
	got := runAsTest(t, func(tb testing.TB) { c.tb = tb; c.Freeze() })
	if !strings.Contains(got, "the server does not run") {
		t.Errorf("freezing a stopped server ended with %q, want that it does not run", got)
	}
	got = runAsTest(t, func(tb testing.TB) { c.tb = tb; check(tb, c.exec("SELECT 1")) })
	if !strings.Contains(got, "SELECT 1") {
		t.Errorf("a statement to a stopped server ended with %q, want the statement in it", got)
	}
	c.tb = t
}

func TestParseEndpoint_AcceptsOwnDSNsOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		dsn  string
		want endpoint
		host string
		port string
	}{
		{socketDSN("/tmp/x y", "db"), endpoint{"unix", "/tmp/x y/.s.PGSQL.5432", "db"}, "/tmp/x y", "5432"},
		{"postgres://postgres@127.0.0.1:7/db?sslmode=disable", endpoint{"tcp", "127.0.0.1:7", "db"}, "127.0.0.1", "7"},
	} {
		got, err := parseEndpoint(tt.dsn)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(endpoint{})); diff != "" || err != nil {
			t.Errorf("parseEndpoint(%q): error %v (-want +got)\n%s", tt.dsn, err, diff)
		}
		if host, port, err := got.hostPort(); host != tt.host || port != tt.port || err != nil {
			t.Errorf("hostPort of %q: %q, %q, %v; want %q, %q", tt.dsn, host, port, err, tt.host, tt.port)
		}
	}
	if got, want := overTCP(socketDSN("/tmp/x", "db")+"&a=b", "127.0.0.1:7"), "postgres://postgres@127.0.0.1:7/db?a=b&sslmode=disable"; got != want {
		t.Errorf("overTCP returns %s, want %s", got, want)
	}
	for _, bad := range []string{"", "host=/tmp dbname=db", "mysql://h:1/db", "postgres:///db", "postgres://h:1/", "postgres://%zz"} {
		if got, err := parseEndpoint(bad); err == nil {
			t.Errorf("parseEndpoint(%q) is %+v, want an error", bad, got)
		}
	}
}

func TestProxy_CountsNoLostReplyOfAServerThatDies(t *testing.T) {
	t.Parallel()
	startup := []byte{0, 0, 0, 9, 0, 3, 0, 0, 0}
	for _, sent := range []string{
		"C\x00\x00\x00\x0bCOMMIT\x00",          // no ReadyForQuery
		"C\x00\x00\x00\x0bCOMMIT\x00Z\x00\x00", // half of one
		"C\x00\x00\x00\x0bCOM",                 // half a tag
		"Z\x00\x00\x00\x05",                    // half a message
	} {
		server, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		check(t, err)
		var serving sync.WaitGroup
		serving.Go(func() {
			conn, err := server.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			_, readErr := io.ReadFull(conn, make([]byte, len(startup)))
			_, writeErr := io.WriteString(conn, sent)
			if err := errors.Join(readErr, writeErr, conn.Close()); err != nil {
				t.Error(err)
			}
		})
		p := NewProxy(t, "postgres://"+server.Addr().String()+"/db")
		p.LoseCommits(1)
		client, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.listener.Addr().String())
		check(t, err)
		_, err = client.Write(startup)
		check(t, err)
		if got, _ := io.ReadAll(client); strings.HasPrefix(string(got), "C") || p.Lost() != 0 {
			t.Errorf("after the server sent %q the client got %q, and %d replies count as lost; want no CommandComplete and none lost", sent, got, p.Lost())
		}
		serving.Wait()
		check(t, errors.Join(client.Close(), server.Close()))
	}
}

func TestProxy_ClosesAConnectionWithAWrongStartupMessage(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, "postgres://127.0.0.1:1/db")
	for _, sent := range []string{"\x00\x00\x00\x07\x00\x03\x00\x00", "GET / HTTP/1.1\r\n", "\x00\x00\x00\x09\x00\x03\x00\x00\x00"} {
		client, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.listener.Addr().String())
		check(t, err)
		_, err = io.WriteString(client, sent)
		check(t, err)
		if got, _ := io.ReadAll(client); len(got) != 0 {
			t.Errorf("the proxy answers %q to %q, want the connection closed without an answer", got, sent)
		}
		check(t, client.Close())
	}
}

func TestProcesses_AreTheSameFromPsAndProc(t *testing.T) {
	t.Parallel()
	byPs, err := psProcesses()
	if err != nil {
		t.Skip(err)
	}
	byDefault, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	self := os.Getpid()
	if byPs[self].parent != os.Getppid() || byDefault[self].parent != os.Getppid() {
		t.Errorf("the parent of this process is %d from ps, %d from processes, want %d", byPs[self].parent, byDefault[self].parent, os.Getppid())
	}
}

func TestLaunch_ReportsAProgramThatDoesNotStart(t *testing.T) {
	t.Parallel()
	o := owner{home: t.TempDir()}
	log := filepath.Join(o.home, "log")
	s, err := launch(o, filepath.Join(o.home, "data"), "TERM", log, "/nonexistent/server")
	if err != nil {
		t.Fatal(err)
	}
	err = s.waitReady("postgres://postgres@127.0.0.1:1/x?sslmode=disable", log)
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/server") {
		t.Errorf("error %v, want the shell's error in it", err)
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := launch(o, "", "TERM", filepath.Join(o.home, "no", "log"), "true"); err == nil {
		t.Error("no error for a log that cannot be written")
	}
}

func FuzzReadStartup(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 4, 210, 22, 47, 0, 0, 0, 9, 0, 3, 0, 0, 0}) // SSLRequest, then a start-up
	f.Add([]byte{0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2})   // CancelRequest
	f.Add([]byte{0, 0, 0, 7, 0, 3, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 0, 3, 0, 0})
	f.Fuzz(func(t *testing.T, sent []byte) {
		client := &fakeClient{Reader: strings.NewReader(string(sent))}
		message, err := readStartup(client)
		if err != nil {
			return
		}
		if rest := string(sent[8*client.declined:]); !strings.HasPrefix(rest, string(message)) {
			t.Errorf("after %d requests for encryption the message is %x, want the start of %x", client.declined, message, rest)
		}
	})
}

// fakeClient is a client that counts the answers "N", which decline encryption.
type fakeClient struct {
	*strings.Reader
	declined int
}

func (h *fakeClient) Write(b []byte) (int, error) {
	if string(b) != "N" {
		return 0, fmt.Errorf("answer %q, want N", b)
	}
	h.declined++
	return 1, nil
}
