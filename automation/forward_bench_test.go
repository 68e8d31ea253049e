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

// target is a server to which a benchmark sends its requests, in turn with others.
type target struct {
	name   string
	server *httptest.Server
	path   string
	took   []time.Duration
}

// send sends one request and reads the answer to its end.
func (a *target) send(b *testing.B, user, body string) {
	b.Helper()
	start := time.Now()
	answer := a.do(b, user, body)
	_, err := io.Copy(io.Discard, answer)
	_ = answer.Close()
	if err != nil {
		b.Fatal(a.name, err)
	}
	a.took = append(a.took, time.Since(start))
}

// report reports the target's quantiles, and its median as a multiple of another's.
func (a *target) report(b *testing.B, base *target) {
	b.Helper()
	slices.Sort(a.took)
	quantile := func(a *target, q float64) float64 {
		return float64(a.took[int(q*float64(len(a.took)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(quantile(a, 0.5), a.name+"-p50-ms")
	b.ReportMetric(quantile(a, 0.99), a.name+"-p99-ms")
	if base != nil && base != a {
		b.ReportMetric(quantile(a, 0.5)/quantile(base, 0.5), a.name+"/"+base.name)
	}
}

// chatNode answers chats by a handler of the benchmark's own, and everything else as the
// simulated node does. It returns the option with which a harness uses it.
func startChatNode(b testing.TB, answer http.HandlerFunc) (*httptest.Server, func(*automation.Config)) {
	b.Helper()
	chain := proxyroutertest.NewServer(b, proxyroutertest.Options{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			chain.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w, r)
	}))
	b.Cleanup(s.Close)
	return s, func(c *automation.Config) {
		c.ProxyRouterURL = s.URL
		c.FlagPollInterval, c.MappingReloadInterval, c.SweepInterval = time.Second, 2*time.Second, 5*time.Second
		c.MaxSessionsPerUser = 1 // the benchmarks' users send one request after the other
	}
}

// reverseProxy is the standard library's proxy to a node. Without the full duplex, its server
// closes a request's body once the answer begins, which the transport may find out only then by
// reading for more: it would cut the answer (golang/go#40747), one in two hundred here.
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

// answerShort is a node that answers at once.
func serveShortAnswer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, shortAnswer)
}

// BenchmarkForward compares a request through the whole module, on a PostgreSQL over a unix
// socket, with the same one to the node alone and through httputil.ReverseProxy. The three take
// turns, so that a busy machine slows all of them.
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
			server, config := startChatNode(b, tt.answer)
			proxy := reverseProxy(b, server, nil)
			h := newHarness(b, setup{db: postgresDB, config: config})
			node := &target{name: "node", server: server, path: "/v1/chat/completions"}
			targets := []*target{node, {name: "proxy", server: proxy, path: node.path}, {name: "module", server: h.server, path: chatPath}}
			for _, a := range targets { // connections and a session
				a.send(b, "alice", tt.body)
				a.took = nil
			}
			for b.Loop() {
				for _, a := range targets {
					a.send(b, "alice", tt.body)
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, a := range targets {
				a.report(b, node)
			}
		})
	}
}

// BenchmarkForward_DatabaseAway is a chat whose database is a network away: with a session that
// lingers, warm, with an idle one, and cold, where each chat is a new user's and opens one.
func BenchmarkForward_DatabaseAway(b *testing.B) {
	for _, latency := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} {
		for _, driver := range []struct{ name, driver, option string }{
			{"pq", "postgres", ""}, {"pq_binary_parameters", "postgres", "&binary_parameters=yes"}, {"pgx", "pgx", ""},
		} {
			for _, kind := range []string{"lingering", "warm", "cold"} {
				b.Run(fmt.Sprintf("%s/%s/+%v", kind, driver.name, latency), func(b *testing.B) {
					_, config := startChatNode(b, serveShortAnswer)
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
					a := &target{name: "chat", server: h.server, path: chatPath}
					n := 0
					user := func() string {
						if kind != "cold" {
							return "alice"
						}
						n++
						return fmt.Sprint("user-", n)
					}
					for range 5 { // connections, prepared statements
						a.send(b, user(), chatBody("llama"))
					}
					a.took = nil
					proxy.TakeTraffic()
					for b.Loop() {
						a.send(b, user(), chatBody("llama"))
					}
					traffic := proxy.TakeTraffic()
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(float64(traffic.RoundTrips)/float64(b.N), "round-trips/chat")
					a.report(b, nil)
				})
			}
		}
	}
}

// BenchmarkForward_RetainsStreams is what each of 500 open streams holds in memory and goroutines,
// through the whole module and through httputil.ReverseProxy. What the client and the node hold
// themselves, which are in the same process, is measured first and subtracted.
func BenchmarkForward_RetainsStreams(b *testing.B) {
	const streams = 500
	var release atomic.Pointer[chan struct{}]
	server, config := startChatNode(b, func(w http.ResponseWriter, _ *http.Request) {
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
	quiet := runtime.NumGoroutine() + streams/20 // with what the module has running now and then
	for b.Loop() {
		var bytes, goroutines [3]float64
		for i, a := range []*target{{name: "node", server: server, path: "/v1/chat/completions"},
			{name: "proxy", server: proxy, path: "/v1/chat/completions"}, {name: "module", server: h.server, path: chatPath}} {
			end := make(chan struct{})
			release.Store(&end)
			before, running := retained()
			bodies := make([]io.ReadCloser, streams)
			for n := range bodies {
				bodies[n] = a.open(b, fmt.Sprint("user-", n), streamBody("llama", "hello"))
			}
			after, runningAfter := retained()
			bytes[i], goroutines[i] = float64(after-before)/streams, float64(runningAfter-running)/streams
			close(end)
			for _, body := range bodies {
				if _, err := io.Copy(io.Discard, body); err != nil {
					b.Fatal(a.name, err)
				}
				_ = body.Close()
			}
			// A connection that waits for the next round belongs to no stream.
			for _, idle := range []interface{ CloseIdleConnections() }{server.Client(), a.server.Client(), transport, client} {
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

// open sends a request and returns its answer after the first event has begun.
func (a *target) open(b *testing.B, user, body string) io.ReadCloser {
	b.Helper()
	answer := a.do(b, user, body)
	if _, err := io.ReadFull(answer, make([]byte, 16)); err != nil {
		b.Fatal(a.name, err)
	}
	return answer
}

// do sends a request and returns its answer, which must be a good one.
func (a *target) do(b *testing.B, user, body string) io.ReadCloser {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, a.server.URL+a.path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk-"+user)
	r.Header.Set("Content-Type", "application/json")
	resp, err := a.server.Client().Do(r)
	if err != nil {
		b.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		b.Fatal(a.name, resp.Status)
	}
	return resp.Body
}

// retained returns the bytes of live objects and of stacks, and the number of goroutines.
func retained() (bytes int64, goroutines int) {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what a sync.Pool held
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}
