package automation_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// target is a server that a benchmark measures. A benchmark sends its requests to several
// targets in turn.
type target struct {
	name   string
	server *httptest.Server
	path   string
	took   []time.Duration // of each request
}

// send sends one request and reads the answer to its end.
func (t *target) send(b *testing.B, user, body string) {
	b.Helper()
	start := time.Now()
	answer := t.do(b, user, body)
	_, err := io.Copy(io.Discard, answer)
	_ = answer.Close()
	if err != nil {
		b.Fatal(t.name, err)
	}
	t.took = append(t.took, time.Since(start))
}

// report reports the target's quantiles, and its median as a multiple of that of base, which may
// be nil.
func (t *target) report(b *testing.B, base *target) {
	b.Helper()
	slices.Sort(t.took)
	quantile := func(t *target, q float64) float64 {
		return float64(t.took[int(q*float64(len(t.took)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(quantile(t, 0.5), t.name+"-p50-ms")
	b.ReportMetric(quantile(t, 0.99), t.name+"-p99-ms")
	if base != nil && base != t {
		b.ReportMetric(quantile(t, 0.5)/quantile(base, 0.5), t.name+"/"+base.name)
	}
}

// startBenchmarkNode starts a node that answers chats with answer. It returns the node and the
// configuration of a harness that uses it.
func startBenchmarkNode(b testing.TB, answer http.HandlerFunc) (*httptest.Server, func(*automation.Config)) {
	b.Helper()
	node := newAnsweringNode(b, proxyroutertest.NewServer(b, proxyroutertest.Options{}), answer)
	return node, func(c *automation.Config) {
		c.ProxyRouterURL = node.URL
		c.FlagPollInterval, c.MappingReloadInterval, c.SweepInterval = time.Second, 2*time.Second, 5*time.Second
		c.MaxSessionsPerUser = 1 // the benchmarks' users send one request at a time
	}
}

// reverseProxy starts the standard library's proxy to a node. Without full duplex, net/http closes
// a request's body once the answer begins. If the transport has not yet read the body's end, it
// then cuts the answer (golang/go#40747), which happens to one in two hundred here.
func reverseProxy(b *testing.B, node *httptest.Server, transport http.RoundTripper) *httptest.Server {
	b.Helper()
	to, err := url.Parse(node.URL)
	if err != nil {
		b.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			b.Error(err)
		}
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(s.Close)
	return s
}

const shortAnswer = `{"id":"1","object":"chat.completion","model":"llama","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}`

// serveShortAnswer is a node that answers at once.
func serveShortAnswer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, shortAnswer)
}

// BenchmarkForward compares a request through the module, with PostgreSQL on a unix socket, to
// the same request to the node alone and through httputil.ReverseProxy. The requests alternate, so
// that a busy machine slows all three.
func BenchmarkForward(b *testing.B) {
	large := `{"data":["` + strings.Repeat("x", 10<<20) + `"]}`
	const event = `data: {"choices":[{"index":0,"delta":{"content":"word "}}]}` + "\n\n"
	for _, tt := range []struct {
		name, body string
		answer     http.HandlerFunc
	}{
		{"short", chatBody("llama"), serveShortAnswer},
		{"stream_20000", streamBody("llama", "hello"), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			rc := http.NewResponseController(w)
			for range 20_000 {
				_, _ = io.WriteString(w, event)
				_ = rc.Flush()
			}
			_, _ = io.WriteString(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
		}},
		{"answer_10MB", chatBody("llama"), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			_, _ = io.WriteString(w, large)
		}},
		{"request_5MB", `{"messages":[{"role":"user","content":"` + strings.Repeat("x", 5<<20) + `"}],"model":"llama"}`, serveShortAnswer},
	} {
		b.Run(tt.name, func(b *testing.B) {
			server, config := startBenchmarkNode(b, tt.answer)
			proxy := reverseProxy(b, server, nil)
			h := newHarness(b, setup{db: postgresDB, config: config})
			node := &target{name: "node", server: server, path: "/v1/chat/completions"}
			targets := []*target{node, {name: "proxy", server: proxy, path: node.path}, {name: "module", server: h.server, path: chatPath}}
			for _, t := range targets { // opens connections and a session
				t.send(b, "alice", tt.body)
				t.took = nil
			}
			for b.Loop() {
				for _, t := range targets {
					t.send(b, "alice", tt.body)
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, t := range targets {
				t.report(b, node)
			}
		})
	}
}

// BenchmarkForward_DatabaseLatency measures a chat whose database is reached over a network. In
// "lingering" the session lingers in the replica, in "warm" it is idle in the database, and in
// "cold" each chat is a new user's and opens one.
func BenchmarkForward_DatabaseLatency(b *testing.B) {
	for _, latency := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} {
		for _, driver := range []struct{ name, driver, option string }{
			{"pq", "postgres", ""}, {"pq_binary_parameters", "postgres", "&binary_parameters=yes"}, {"pgx", "pgx", ""},
		} {
			for _, kind := range []string{"lingering", "warm", "cold"} {
				b.Run(fmt.Sprintf("%s/%s/+%v", kind, driver.name, latency), func(b *testing.B) {
					_, config := startBenchmarkNode(b, serveShortAnswer)
					var proxy *pgtest.Proxy
					h := newHarness(b, setup{db: func(tb testing.TB) *sqlx.DB {
						tb.Helper()
						proxy = pgtest.NewProxy(tb, schematest.Database(tb))
						db, err := sqlx.Open(driver.driver, proxy.DSN()+driver.option)
						if err != nil {
							tb.Fatal(err)
						}
						tb.Cleanup(func() { _ = db.Close() })
						db.SetMaxIdleConns(16)
						return db
					}, config: func(c *automation.Config) {
						config(c)
						if kind == "warm" {
							c.SessionLinger = 0
						}
					}})
					proxy.SetLatency(latency)
					t := &target{name: "chat", server: h.server, path: chatPath}
					n := 0
					user := func() string {
						if kind != "cold" {
							return "alice"
						}
						n++
						return fmt.Sprint("user-", n)
					}
					for range 5 { // opens connections, prepares statements
						t.send(b, user(), chatBody("llama"))
					}
					t.took = nil
					proxy.TakeTraffic()
					for b.Loop() {
						t.send(b, user(), chatBody("llama"))
					}
					traffic := proxy.TakeTraffic()
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(float64(traffic.RoundTrips)/float64(b.N), "round-trips/chat")
					t.report(b, nil)
				})
			}
		}
	}
}

// BenchmarkForward_MemoryOfStreams measures the memory and the goroutines of each of 500 open
// streams, through the module and through httputil.ReverseProxy. The client and the node run in the
// same process; their share is measured without a proxy and subtracted.
func BenchmarkForward_MemoryOfStreams(b *testing.B) {
	const streams = 500
	var release atomic.Pointer[chan struct{}]
	server, config := startBenchmarkNode(b, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"choices":[{"index":0,"delta":{"content":"word "}}]}`+"\n\n")
		_ = http.NewResponseController(w).Flush()
		<-*release.Load()
		_, _ = io.WriteString(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
	})
	transport := &http.Transport{MaxIdleConnsPerHost: streams}
	b.Cleanup(transport.CloseIdleConnections)
	proxy := reverseProxy(b, server, transport)
	var client *proxyrouter.Client
	h := newHarness(b, setup{db: postgresDB, config: config, options: func(o *automation.Options) { client = o.Node.(*proxyrouter.Client) }})
	quiet := runtime.NumGoroutine() + streams/20 // the module also starts some for a short time
	for b.Loop() {
		var bytes, goroutines [3]float64
		for i, t := range []*target{{name: "node", server: server, path: "/v1/chat/completions"},
			{name: "proxy", server: proxy, path: "/v1/chat/completions"}, {name: "module", server: h.server, path: chatPath}} {
			end := make(chan struct{})
			release.Store(&end)
			before, running := retained()
			bodies := make([]io.ReadCloser, streams)
			for n := range bodies {
				bodies[n] = t.open(b, fmt.Sprint("user-", n), streamBody("llama", "hello"))
			}
			after, runningAfter := retained()
			bytes[i], goroutines[i] = float64(after-before)/streams, float64(runningAfter-running)/streams
			close(end)
			for _, body := range bodies {
				if _, err := io.Copy(io.Discard, body); err != nil {
					b.Fatal(t.name, err)
				}
				_ = body.Close()
			}
			// Idle connections must not count in the next round.
			for _, idle := range []interface{ CloseIdleConnections() }{server.Client(), t.server.Client(), transport, client} {
				idle.CloseIdleConnections()
			}
			for runtime.NumGoroutine() > quiet {
				<-time.After(time.Millisecond)
			}
		}
		for i, name := range []string{"proxy", "module"} {
			b.ReportMetric(bytes[i+1]-bytes[0], name+"-bytes/stream")
			b.ReportMetric(goroutines[i+1]-goroutines[0], name+"-goroutines/stream")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// open sends a request and returns its answer as soon as the first event has begun.
func (t *target) open(b *testing.B, user, body string) io.ReadCloser {
	b.Helper()
	answer := t.do(b, user, body)
	if _, err := io.ReadFull(answer, make([]byte, 16)); err != nil {
		b.Fatal(t.name, err)
	}
	return answer
}

// do sends a request and returns the body of the answer, whose status must be 200.
func (t *target) do(b *testing.B, user, body string) io.ReadCloser {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, t.server.URL+t.path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk-"+user)
	r.Header.Set("Content-Type", "application/json")
	resp, err := t.server.Client().Do(r)
	if err != nil {
		b.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		b.Fatal(t.name, resp.Status)
	}
	return resp.Body
}

// retained returns the bytes of live objects and of stacks, and the number of goroutines.
func retained() (bytes int64, goroutines int) {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // a sync.Pool keeps objects for one collection more
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}
