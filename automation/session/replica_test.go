package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
)

const replicaEnv = "SESSION_TEST_REPLICA"

// replicaConfig configures a replica, which runs in a child process until it is
// killed, kills itself, or its standard input ends.
type replicaConfig struct {
	Driver, DSN, Node string
	Options           replicaOptions
	Failpoint         string        // where it kills itself with SIGKILL
	Clock             time.Duration // its clock's offset from the true one
}

// replicaOptions are the session.Options that a test sets for replicas, as JSON. Zero
// times keep the value of testOptions.
type replicaOptions struct {
	Shared                            bool
	MaxPerUser, MaxOpen               int
	Lease, ReconcileTimeout, Interval time.Duration
	OpenTimeout, AcquireTimeout       time.Duration
	CloseAfter, Margin                time.Duration
}

func (o replicaOptions) session() session.Options {
	s := testOptions()
	s.Shared, s.MaxPerUser, s.MaxOpen = o.Shared, o.MaxPerUser, o.MaxOpen
	for _, d := range []struct {
		to   *time.Duration
		from time.Duration
	}{
		{&s.Lease, o.Lease}, {&s.ReconcileTimeout, o.ReconcileTimeout}, {&s.Interval, o.Interval}, {&s.OpenTimeout, o.OpenTimeout},
		{&s.AcquireTimeout, o.AcquireTimeout}, {&s.CloseAfter, o.CloseAfter}, {&s.Margin, o.Margin},
	} {
		if d.from != 0 {
			*d.to = d.from
		}
	}
	return s
}

// work is a line of a replica's standard input: requests to make concurrently. Each
// request claims a session, chats with the node, and releases the session.
type work struct {
	Users    []string
	Requests int      // concurrent requests of each user; zero: one
	Models   []string // each request chooses one at random
	Forever  bool     // each request is repeated until the replica ends
	Hold     bool     // claims are kept until the replica ends
}

// report is a line of a replica's standard output: the outcomes of one work.
type report struct {
	Served, Refused int           // requests; refused by a limit
	Slowest         time.Duration // of the served requests
	Errors          []string      // at most 20
}

// replica is a running replica.
type replica struct{ *proctest.Process }

func startReplica(t *testing.T, c replicaConfig) *replica {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{proctest.Start(t, proctest.Self(nil, replicaEnv+"="+string(config)))}
	if _, ok := r.Line(); !ok && c.Failpoint == "" { // it may have killed itself already
		t.Fatal("the replica did not start")
	}
	return r
}

// readReport waits for the report of the work that was sent.
func (r *replica) readReport(t *testing.T) (rep report) {
	t.Helper()
	line, ok := r.Line()
	if !ok {
		t.Error("the replica ended without a report")
		return rep
	}
	if err := json.Unmarshal([]byte(line), &rep); err != nil {
		t.Error(err)
	}
	return rep
}

// stop ends the replica's input and waits until it has shut down.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	if err := r.End(); err != nil {
		t.Errorf("the replica did not shut down cleanly: %v", err)
	}
}

// waitKilled waits until the replica has killed itself.
func (r *replica) waitKilled(t *testing.T) {
	t.Helper()
	if err := r.Wait(); !proctest.WasKilled(err) {
		t.Errorf("the replica ended with %v, want killed by itself", err)
	}
}

// runReplica is the main function of a replica's process. It returns the exit code.
func runReplica(config string) int {
	var c replicaConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	db, err := sqlx.Open(c.Driver, c.DSN)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	db.SetMaxOpenConns(10)
	db.SetMaxIdleConns(10)
	client, err := proxyrouter.New(proxyrouter.Options{URL: c.Node, OpenTimeout: testTimeout})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	o := c.Options.session()
	if os.Getenv("SESSION_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	}
	o.Now = func() time.Time { return time.Now().Add(c.Clock) }
	o.SetFailpoint(func(name string) {
		if name == c.Failpoint {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	m, err := session.New(db, client, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	waitStarted(ctx, m)
	fmt.Println("running")
	var all sync.WaitGroup
	for in := json.NewDecoder(os.Stdin); ; {
		var w work
		if in.Decode(&w) != nil {
			break
		}
		all.Go(func() {
			rep := w.run(ctx, m, client)
			_ = json.NewEncoder(os.Stdout).Encode(rep)
		})
	}
	cancel()
	all.Wait()
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// run makes the requests and reports their outcomes.
func (w work) run(ctx context.Context, m *session.Manager, client *proxyrouter.Client) (rep report) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, user := range w.Users {
		for range max(w.Requests, 1) {
			wg.Go(func() {
				for repeat := true; repeat; repeat = w.Forever && ctx.Err() == nil {
					begun := time.Now()
					err := w.request(ctx, m, client, user)
					mu.Lock()
					switch _, refused := errors.AsType[*session.BudgetError](err); {
					case err == nil:
						rep.Served++
						rep.Slowest = max(rep.Slowest, time.Since(begun))
					case refused:
						rep.Refused++
					case len(rep.Errors) < 20 && !errors.Is(err, context.Canceled) && !errors.Is(err, session.ErrNotRunning):
						rep.Errors = append(rep.Errors, err.Error())
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return rep
}

var requestID atomic.Int64

// request makes one request of the user.
func (w work) request(ctx context.Context, m *session.Manager, client *proxyrouter.Client, user string) error {
	c, err := m.Acquire(ctx, session.Request{UserID: user, ModelID: w.Models[rand.IntN(len(w.Models))], Duration: time.Hour})
	if err != nil {
		return err
	}
	defer c.Release()
	if w.Hold {
		fmt.Println("held")
		select {}
	}
	// Like the chat path, this reads the answer to its end even if the replica ends, because
	// the node is busy with the session until then.
	answer, err := client.Forward(c.LeaseContext(), proxyrouter.ChatRequest{Path: "/v1/chat/completions", SessionID: c.SessionID(), ModelID: c.ModelID(),
		RequestID: fmt.Sprintf("%d-%d", os.Getpid(), requestID.Add(1)), Header: http.Header{"Content-Type": {"application/json"}},
		Body: []byte(`{"messages":[{"role":"user","content":"hello"}]}`)})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("chat: %s: %s", answer.Status, text)
	}
	return err
}

// waitStarted waits until the manager accepts requests.
func waitStarted(ctx context.Context, m *session.Manager) {
	select {
	case <-m.Started():
	case <-ctx.Done():
	}
}

// audit waits until no open is unfinished and no session is leased. Then it checks the
// invariants, compares the rows with the node's sessions, and, unless perUser is zero,
// checks that no user got more than perUser sessions.
func audit(t *testing.T, db *sqlx.DB, n *proxyroutertest.Server, perUser int) {
	t.Helper()
	waitUntil(t, "no row is opening, unknown or leased", func() bool {
		var busy int
		err := db.Get(&busy, `SELECT count(*) FROM automation_sessions WHERE state IN ('opening', 'unknown') OR lease_token IS NOT NULL AND lease_until > CURRENT_TIMESTAMP`)
		return err == nil && busy == 0
	})
	s := n.Stats()
	checkInvariants(t, db, s)
	var known []string
	if err := db.Select(&known, `SELECT session_id FROM automation_sessions WHERE session_id IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	if len(known) != len(s.Sessions) {
		t.Errorf("%d rows have a session, the node has %d sessions; rows by state: %v", len(known), len(s.Sessions), countByState(t, db))
	}
	var over []string
	if err := db.Select(&over, `SELECT user_id FROM automation_sessions WHERE session_id IS NOT NULL AND user_id <> '' GROUP BY user_id HAVING count(*) > $1`, perUser); err != nil {
		t.Fatal(err)
	}
	if perUser > 0 && len(over) > 0 {
		t.Errorf("users %v got more than %d sessions each", over, perUser)
	}
}
