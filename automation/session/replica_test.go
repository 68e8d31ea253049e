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

// replicaConfig is what a replica, a process of its own, is told. It runs until
// it is killed, kills itself, or its standard input ends.
type replicaConfig struct {
	Driver, DSN, Node string
	Options           replicaOptions
	Failpoint         string        // where it kills itself with SIGKILL
	Clock             time.Duration // how far its clock is off
}

// replicaOptions are those of session.Options that JSON can carry.
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

// work is a line of a replica's standard input: requests to make at once, each
// of them a claim, a chat with the node, and the release.
type work struct {
	Users    []string // one request each
	Requests int      // of each user
	Models   []string // at random
	Forever  bool     // each user continues until the replica ends
	Hold     bool     // the claim is kept until the replica ends
}

// report is a line of its standard output.
type report struct {
	Served, Refused int
	Slowest         time.Duration // of the claims
	Errors          []string
}

// replica is a running one, as the test sees it.
type replica struct{ *proctest.Process }

func startReplica(t *testing.T, c replicaConfig) *replica {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{proctest.Start(t, proctest.Self(nil, replicaEnv+"="+string(config)))}
	if _, ok := r.Line(); !ok && c.Failpoint == "" { // it runs, or has found its end already
		t.Fatal("the replica did not start")
	}
	return r
}

// readReport waits for the answer to the work that was sent.
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

// stop ends it in an orderly way.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	if err := r.End(); err != nil {
		t.Errorf("the replica ended badly: %v", err)
	}
}

// waitKilled waits until it has killed itself.
func (r *replica) waitKilled(t *testing.T) {
	t.Helper()
	if err := r.Wait(); !proctest.WasKilled(err) {
		t.Errorf("the replica was to kill itself, it ended with %v", err)
	}
}

// runReplica is the process's main function.
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

// run makes the requests and reports how they went.
func (w work) run(ctx context.Context, m *session.Manager, client *proxyrouter.Client) (rep report) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, user := range w.Users {
		for range max(w.Requests, 1) {
			wg.Go(func() {
				for again := true; again; again = w.Forever && ctx.Err() == nil {
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
	// As the chat path does, the answer is read to its end when the replica ends:
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

// waitStarted waits until the manager gives claims.
func waitStarted(ctx context.Context, m *session.Manager) {
	select {
	case <-m.Started():
	case <-ctx.Done():
	}
}

// audit waits until nothing is of unknown outcome or leased any more, and holds the
// database against the chain: every session has one row and every row its
// session, no request overlapped with another, nothing was closed early, and
// no user was ever given more sessions than they may hold.
func audit(t *testing.T, db *sqlx.DB, n *proxyroutertest.Server, perUser int) {
	t.Helper()
	waitUntil(t, "nothing is of unknown outcome or in use any more", func() bool {
		var open int
		err := db.Get(&open, `SELECT count(*) FROM automation_sessions WHERE state IN ('opening', 'unknown') OR lease_token IS NOT NULL AND lease_until > CURRENT_TIMESTAMP`)
		return err == nil && open == 0
	})
	s := n.Stats()
	checkInvariants(t, db, s)
	var known []string
	if err := db.Select(&known, `SELECT session_id FROM automation_sessions WHERE session_id IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	if len(known) != len(s.Sessions) {
		t.Errorf("%d rows have a session, the chain has %d; by state: %v", len(known), len(s.Sessions), countByState(t, db))
	}
	var over []string
	if err := db.Select(&over, `SELECT user_id FROM automation_sessions WHERE session_id IS NOT NULL AND user_id <> '' GROUP BY user_id HAVING count(*) > $1`, perUser); err != nil {
		t.Fatal(err)
	}
	if perUser > 0 && len(over) > 0 {
		t.Errorf("users %v were given more than %d sessions", over, perUser)
	}
}
