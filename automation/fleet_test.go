package automation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

const (
	fleetProcesses = 4
	fleetModules   = 25                      // in each process
	fleetWorkers   = 16                      // in each process; a worker sends one chat at a time
	fleetUsers     = 400                     // of each worker
	fleetEnv       = "AUTOMATION_TEST_FLEET" // makes the test binary one process of the fleet
)

// fleetTask is a task of a process of the fleet. If Chats is positive, it sends chats; otherwise
// it reports when each of its modules has read a version of the flag.
type fleetTask struct {
	Chats       time.Duration // how long to send chats
	Roam        bool          // send each chat to the next module
	FlagVersion int64
}

// fleetReport is the result of a fleetTask.
type fleetReport struct {
	SeenAt []int64         // when each module had read the flag, in Unix nanoseconds
	Took   []time.Duration // of each chat
	CPU    time.Duration   // that the process used for the chats
	Failed int             // chats that were not answered 200
}

// TestFleet_OnOneDatabase measures a hundred modules in four processes on one PostgreSQL: idle,
// after changes of the flag, and while they serve chats from a node that answers at once. Every
// module must read each change; docs/scaling.md has the results.
//
//	AUTOMATION_TEST_LONG=1 go test ./automation -run Fleet_OnOneDatabase -v
func TestFleet_OnOneDatabase(t *testing.T) {
	if config := os.Getenv(fleetEnv); config != "" {
		runFleetProcess(t, config)
		return
	}
	if os.Getenv("AUTOMATION_TEST_LONG") != "1" {
		t.Skip("takes minutes and gigabytes; run with AUTOMATION_TEST_LONG=1")
	}
	cluster := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"max_connections": "600", "shared_buffers": "512MB", "shared_preload_libraries": "pg_stat_statements"}})
	dsn := cluster.DSN("postgres")
	db := pgtest.Open(t, dsn)
	schematest.Migrate(t, db)
	for _, q := range []string{enableForAll, `CREATE EXTENSION pg_stat_statements`, fmt.Sprintf(`
		INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, provider, created_at, called_at, opened_at, ends_at, last_used_at, next_at)
		SELECT 'id-' || i, '0x' || lpad(to_hex(i), 64, '0'), '%s', 'user-' || i, 'user-' || i, now(), 86400, 'open', '0xp', now(), now(), now(),
			now() + interval '1 day', now(), now() + interval '1 day'
		FROM generate_series(1, %d) i`, proxyroutertest.ModelID("llama"), fleetProcesses*fleetWorkers*fleetUsers), `ANALYZE`} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	node, _ := startBenchmarkNode(t, serveShortAnswer)
	processes := make([]*fleetProcess, fleetProcesses)
	for i := range processes {
		processes[i] = startFleetProcess(t, i, node.URL, dsn)
	}
	all := func(task fleetTask) (reports []fleetReport) {
		t.Helper()
		for _, p := range processes {
			p.Send(t, task)
		}
		for _, p := range processes {
			reports = append(reports, p.report(t))
		}
		return reports
	}
	for _, p := range processes {
		p.report(t) // the first report says that all modules run
	}
	const replicas = fleetProcesses * fleetModules
	const idle = 30 * time.Second
	<-time.After(idle) // until the work after a start is done

	before := readServerStats(t, db)
	start := time.Now()
	<-time.After(idle)
	after, took := readServerStats(t, db), time.Since(start)
	replicaSeconds := took.Seconds() * replicas
	t.Logf("idle: %.2f statements/s and replica, %d connections, PostgreSQL's processes used %.1f %% of a core for %d replicas",
		float64(after.Calls-before.Calls)/replicaSeconds, after.Connections, 100*(after.cpu-before.cpu).Seconds()/took.Seconds(), replicas)

	var delays []time.Duration
	for i := range 20 {
		<-time.After(rand.N(time.Second)) // at a random moment between two polls
		var version int64
		changed := time.Now()
		if err := db.GetContext(t.Context(), &version, `UPDATE feature_flags SET rollout_percentage = $1 WHERE feature_name = 'automation' RETURNING version`, 99-i%2); err != nil {
			t.Fatal(err)
		}
		for _, r := range all(fleetTask{FlagVersion: version}) {
			for _, at := range r.SeenAt {
				delays = append(delays, time.Unix(0, at).Sub(changed))
			}
		}
	}
	slices.Sort(delays)
	t.Logf("delay of a flag's change by polling: p50 %v, p99 %v, worst %v of %d", quantile(delays, 0.5), quantile(delays, 0.99), delays[len(delays)-1], len(delays))
	var version int64
	if err := db.GetContext(t.Context(), &version, enableForAll+` RETURNING version`); err != nil {
		t.Fatal(err)
	}
	all(fleetTask{FlagVersion: version})

	for _, roam := range []bool{false, true} {
		const span = 20 * time.Second
		all(fleetTask{Chats: span / 4, Roam: roam})              // opens connections, caches settings
		before, nodeCPU := readServerStats(t, db), processCPU(t) // the node runs in this process
		reports := all(fleetTask{Chats: span, Roam: roam})
		after := readServerStats(t, db)
		nodeCPU = processCPU(t) - nodeCPU
		var chats []time.Duration
		var cpu time.Duration
		failed := 0
		for _, r := range reports {
			chats, cpu, failed = append(chats, r.Took...), cpu+r.CPU, failed+r.Failed
		}
		slices.Sort(chats)
		n := float64(len(chats))
		t.Logf("chats, users roam over the replicas: %v: %.0f/s, p50 %v, p99 %v; a chat costs %.1f statements, %.2f ms of CPU in PostgreSQL, %.2f ms in the modules and %.2f ms in the node; %d connections",
			roam, n/span.Seconds(), quantile(chats, 0.5), quantile(chats, 0.99), float64(after.Calls-before.Calls)/n,
			1000*(after.cpu-before.cpu).Seconds()/n, 1000*cpu.Seconds()/n, 1000*nodeCPU.Seconds()/n, after.Connections)
		if failed > 0 { // a very busy machine may exceed time-outs
			t.Logf("%d chats failed", failed)
		}
	}
}

// quantile returns the q-quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

// serverStats is what PostgreSQL has used so far.
type serverStats struct {
	Calls       int64         `db:"calls"` // of statements
	Connections int           `db:"connections"`
	cpu         time.Duration // of all its processes
}

func readServerStats(t *testing.T, db *sqlx.DB) (s serverStats) {
	t.Helper()
	if err := db.GetContext(t.Context(), &s, `SELECT (SELECT sum(calls)::bigint FROM pg_stat_statements) AS calls,
		(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections`); err != nil {
		t.Fatal(err)
	}
	var pids []int
	if err := db.SelectContext(t.Context(), &pids, `SELECT pid FROM pg_stat_activity`); err != nil {
		t.Fatal(err)
	}
	var postmaster int
	for _, pid := range pids {
		var used [4]int64
		if parent := readStat(t, pid, &used); parent != 0 {
			postmaster = parent
		}
		s.cpu += time.Duration(used[0]+used[1]) * tick
	}
	var used [4]int64 // the postmaster's includes its children that have ended
	readStat(t, postmaster, &used)
	s.cpu += time.Duration(used[0]+used[1]+used[2]+used[3]) * tick
	return s
}

const tick = time.Second / 100 // USER_HZ, the unit of /proc

// readStat reads a process's user and system time and those of its children that have ended, in
// ticks. It returns the parent's id, or 0 if the process has ended.
func readStat(t *testing.T, pid int, used *[4]int64) (parent int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if _, err := fmt.Sscan(strings.Join([]string{fields[1], fields[11], fields[12], fields[13], fields[14]}, " "), &parent, &used[0], &used[1], &used[2], &used[3]); err != nil {
		t.Fatal(err)
	}
	return parent
}

// fleetProcess is a child process that runs a part of the fleet.
type fleetProcess struct{ *proctest.Process }

func startFleetProcess(t *testing.T, number int, nodeURL, dsn string) *fleetProcess {
	t.Helper()
	mapping := filepath.Join(t.TempDir(), "model_mappings.json")
	writeJSON(t, mapping, mappings)
	config, err := json.Marshal(map[string]any{"Number": number, "Node": nodeURL, "DSN": dsn, "Mapping": mapping})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^TestFleet_OnOneDatabase$", "-test.timeout=30m"}
	p := &fleetProcess{proctest.Start(t, proctest.Self(args, fleetEnv+"="+string(config)))}
	t.Cleanup(func() {
		if err := p.End(); err != nil {
			t.Error("a process of the fleet:", err)
		}
	})
	return p
}

// report waits for the report of the last task.
func (p *fleetProcess) report(t *testing.T) (r fleetReport) {
	t.Helper()
	for line, ok := p.Line(); ok; line, ok = p.Line() {
		if text, ok := strings.CutPrefix(line, "report "); ok {
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Fatal("a process of the fleet ended before it reported")
	return r
}

// runFleetProcess runs one process of the fleet: it reads tasks from its standard input, and
// returns at the input's end.
func runFleetProcess(t *testing.T, config string) {
	var c struct {
		Number             int
		Node, DSN, Mapping string
	}
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	modules := make([]*automation.Module, fleetModules)
	for i := range modules {
		modules[i] = startFleetModule(t, c.Node, c.DSN, c.Mapping)
	}
	for _, m := range modules {
		for !m.Started(t.Context()) {
			<-time.After(10 * time.Millisecond)
		}
	}
	out := json.NewEncoder(reportWriter{os.Stdout})
	tasks := json.NewDecoder(os.Stdin)
	for r := (fleetReport{}); ; {
		if err := out.Encode(r); err != nil {
			t.Fatal(err)
		}
		var task fleetTask
		if err := tasks.Decode(&task); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if task.Chats > 0 {
			r = sendFleetChats(t, modules, c.Number, task)
		} else {
			r = fleetReport{SeenAt: awaitFleetFlag(modules, task.FlagVersion)}
		}
	}
}

// reportWriter prefixes each report, because package testing writes to the same output.
type reportWriter struct{ to io.Writer }

func (p reportWriter) Write(b []byte) (int, error) {
	_, err := p.to.Write(append([]byte("report "), b...))
	return len(b), err
}

func startFleetModule(t *testing.T, node, dsn, mapping string) *automation.Module {
	t.Helper()
	db := pgtest.Open(t, dsn)
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	client, err := proxyrouter.New(proxyrouter.Options{URL: node})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	c := automation.DefaultConfig()
	c.FeatureEnabled, c.DefaultOptIn, c.MappingsFile, c.ProxyRouterURL, c.MaxDBConnections = true, true, mapping, node, 8
	m, err := automation.New(c, db, identifyByKey, automation.Options{Node: client})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

// awaitFleetFlag waits until each module has that version of the flag, and returns when, in Unix
// nanoseconds.
func awaitFleetFlag(modules []*automation.Module, version int64) []int64 {
	at := make([]int64, len(modules))
	for left := len(modules); left > 0; <-time.After(5 * time.Millisecond) {
		for i, m := range modules {
			if f := m.Flags().Flag(automation.FlagName); at[i] == 0 && f != nil && f.Version >= version {
				at[i] = time.Now().UnixNano()
				left--
			}
		}
	}
	return at
}

// sendFleetChats makes each worker send the chats of its own users, one at a time.
func sendFleetChats(t *testing.T, modules []*automation.Module, process int, task fleetTask) (r fleetReport) {
	t.Helper()
	handlers := make([]http.Handler, len(modules))
	for i, m := range modules {
		handlers[i] = m.Forward()
	}
	var failed atomic.Int64
	took := make([][]time.Duration, fleetWorkers)
	before := processCPU(t)
	var workers sync.WaitGroup
	start := time.Now()
	for w := range fleetWorkers {
		workers.Go(func() {
			for n := 0; time.Since(start) < task.Chats; n++ {
				user, module := n%4, w // a few users who always use the same module
				if task.Roam {
					user, module = n%fleetUsers, n
				}
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, chatPath, strings.NewReader(chatBody("llama")))
				r.Header.Set("Authorization", fmt.Sprintf("Bearer sk-user-%d", 1+(process*fleetWorkers+w)*fleetUsers+user))
				r.Header.Set("Content-Type", "application/json")
				answer := httptest.NewRecorder()
				sent := time.Now()
				handlers[module%len(handlers)].ServeHTTP(answer, r)
				took[w] = append(took[w], time.Since(sent))
				if answer.Code != http.StatusOK && failed.Add(1) == 1 {
					fmt.Fprintln(os.Stderr, answer.Code, answer.Body)
				}
			}
		})
	}
	workers.Wait()
	return fleetReport{Took: slices.Concat(took...), CPU: processCPU(t) - before, Failed: int(failed.Load())}
}

// processCPU returns the user and system time of this process.
func processCPU(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
