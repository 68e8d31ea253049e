package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// A manner is how a hostile node answers.
type manner struct {
	name  string
	raw   string // what it sends
	hangs bool   // the connection stays open after that
	reset bool   // it ends with a reset
	slow  bool   // it takes long
	// whole is true if the client must see a complete answer; else it must see
	// an error: a status, an error event, or a connection that breaks.
	whole bool
}

func head(status, header string) string {
	return "HTTP/1.1 " + status + "\r\n" + strings.ReplaceAll(header, "\n", "\r\n") + "\r\n\r\n"
}

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

const (
	streamHead = "Content-Type: text/event-stream\nTransfer-Encoding: chunked"
	closedHead = "Content-Type: text/event-stream\nConnection: close"
	jsonHead   = "Content-Type: application/json\n"
	lastChunk  = "0\r\n\r\n"
	completion = `{"id":"c","object":"chat.completion","choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}`
)

// manners are all the ways in which an answer has gone wrong, and some more.
var manners = []manner{
	{name: "a whole stream", raw: head("200 OK", streamHead) + chunk(delta) + chunk(finish+done) + lastChunk, whole: true},
	{name: "a whole stream, ended by closing", raw: head("200 OK", closedHead) + delta + finish + done, whole: true},
	{name: "a stream cut into odd chunks", raw: head("200 OK", streamHead) + chunk(delta[:7]) + chunk(delta[7:]+done[:5]) + chunk(done[5:]) + lastChunk, whole: true},
	{name: "a stream that stays open after [DONE]", raw: head("200 OK", streamHead) + chunk(delta+done), hangs: true, whole: true},
	{name: "a whole completion", raw: head("200 OK", jsonHead+"Content-Length: "+strconv.Itoa(len(completion))) + completion, whole: true},
	{name: "a whole completion in chunks", raw: head("200 OK", jsonHead+"Transfer-Encoding: chunked") + chunk(completion[:9]) + chunk(completion[9:]) + lastChunk, whole: true},
	{name: "informational answers first", raw: strings.Repeat(head("103 Early Hints", "Link: </x>"), 3) + head("200 OK", jsonHead+"Content-Length: "+strconv.Itoa(len(completion))) + completion, whole: true},

	{name: "nothing at all"},
	{name: "a reset", reset: true},
	{name: "no HTTP", raw: "banana\r\n\r\n"},
	{name: "half a header", raw: "HTTP/1.1 200 OK\r\nContent-Ty"},
	{name: "a header without end", raw: "HTTP/1.1 200 OK\r\nX-Flood: " + strings.Repeat("x", 11<<20), slow: true},
	{name: "an endless row of informational answers", raw: strings.Repeat(head("103 Early Hints", "Link: </x>"), 100_000), slow: true},
	{name: "a switch to another protocol", raw: head("101 Switching Protocols", "Upgrade: x\nConnection: Upgrade"), hangs: true},
	{name: "no content", raw: head("204 No Content", "X: y")},
	{name: "an empty answer", raw: head("200 OK", jsonHead+"Content-Length: 0")},
	{name: "an empty stream", raw: head("200 OK", streamHead) + lastChunk},
	{name: "comments alone", raw: head("200 OK", streamHead) + chunk(": ping\n\n") + lastChunk},
	{name: "a page", raw: head("200 OK", "Content-Type: text/event-stream\nConnection: close") + "<html>502 Bad Gateway</html>"},
	{name: "two lengths", raw: head("200 OK", jsonHead+"Content-Length: 5\nContent-Length: 6") + "hello"},
	{name: "a chunk of no size", raw: head("200 OK", streamHead) + chunk(delta) + "zz\r\n"},
	{name: "half a chunk", raw: head("200 OK", streamHead) + chunk(delta)[:20]},
	{name: "a body shorter than its length", raw: head("200 OK", jsonHead+"Content-Length: 1000") + completion},
	{name: "a body cut off by its length", raw: head("200 OK", jsonHead+"Content-Length: 20") + completion},
	{name: "a large body shorter than its length", raw: head("200 OK", jsonHead+"Content-Length: 2000000") + `{"x":"` + strings.Repeat("x", 1<<20), slow: true},
	{name: "a reset in the middle of a stream", raw: head("200 OK", streamHead) + chunk(delta), reset: true},
	{name: "a stream that ends early", raw: head("200 OK", streamHead) + chunk(delta) + lastChunk},
	{name: "a stream, ended early by closing", raw: head("200 OK", closedHead) + delta},
	{name: "a stream that ends within a line", raw: head("200 OK", closedHead) + delta + delta[:30]},
	{name: "bare JSON after the events", raw: head("200 OK", streamHead) + chunk(delta) + chunk(`{"providerModelError":{"error":{"message":"x"}}}`) + lastChunk},
	{name: "bare JSON in two pieces", raw: head("200 OK", streamHead) + chunk(delta) + chunk(`{"error":`) + chunk(`"session expired"}`) + lastChunk},
	{name: "an error as an event", raw: head("200 OK", streamHead) + chunk(delta) + chunk("data: {\"error\":{\"message\":\"x\"}}\n\n") + lastChunk},
	{name: "a stream that falls silent", raw: head("200 OK", streamHead) + chunk(delta), hangs: true},
	{name: "a header and silence", raw: head("200 OK", streamHead), hangs: true},
	{name: "an error that stalls", raw: head("500 Internal Server Error", "Content-Length: 100") + `{"error":"x"`, hangs: true, slow: true},
	{name: "corrupt compression", raw: head("200 OK", jsonHead+"Content-Encoding: gzip\nContent-Length: 4") + "\x1f\x8bxx"},
}

// hostileNode answers each request in the manner that its path names.
type hostileNode struct {
	net.Listener
	conns sync.WaitGroup
}

func startHostileNode(t testing.TB) *hostileNode {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &hostileNode{Listener: listener}
	n.conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n.conns.Go(func() { answerHostilely(conn) })
		}
	})
	return n
}

func (n *hostileNode) close() {
	_ = n.Close()
	n.conns.Wait()
}

func answerHostilely(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReader(conn)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, request.Body)
	i, err := strconv.Atoi(strings.TrimPrefix(request.URL.Path, "/"))
	if err != nil {
		return
	}
	m := manners[i]
	_, _ = io.WriteString(conn, m.raw)
	if m.reset {
		_ = conn.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it is one
	}
	if m.hangs {
		_, _ = io.Copy(io.Discard, reader) // until the gateway closes
	}
}

// gateway forwards requests to a node as package chat does.
type gateway struct {
	*relay.Relay
	node     string
	client   *http.Client
	requests atomic.Int64
	ended    atomic.Int64 // how often a session was released or is held
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.requests.Add(1)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	release := func(bool) { g.ended.Add(1) }
	resp, err := g.Send(r.Context(), relay.Attempt{Cancel: cancel, Release: release, Send: func() (*http.Response, error) { //nolint:bodyclose // Copy and ReadError close it
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.node+r.URL.Path, strings.NewReader("{}"))
		if err != nil {
			return nil, err
		}
		return g.client.Do(request)
	}})
	switch {
	case errors.Is(err, relay.ErrAbandoned):
		return
	case err != nil:
		cancel(nil)
	case resp.StatusCode >= http.StatusMultipleChoices:
		_, _ = g.ReadError(resp, cancel)
		cancel(nil)
	default:
		result := g.Copy(r.Context(), w, relay.Answer{Response: resp, Cancel: cancel, Release: release})
		if result.Abort {
			panic(http.ErrAbortHandler)
		}
		switch {
		case result.Begun, result.Failure.Cause == outcome.ClientLeft:
			return
		case !result.Held: // Release is called, and counts
			g.ended.Add(-1)
		}
	}
	g.ended.Add(1)
	http.Error(w, `{"error":{}}`, http.StatusBadGateway)
}

func startGateway(t testing.TB, node *hostileNode, o relay.Options) (*gateway, *httptest.Server) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	g := &gateway{node: "http://" + node.Addr().String(), client: &http.Client{Transport: transport}, Relay: relay.New(o)}
	server := httptest.NewUnstartedServer(g)
	server.Config.ErrorLog = nil
	server.Start()
	return g, server
}

func TestHostileNode_NeverMakesHalfAnAnswerLookWhole(t *testing.T) {
	node := startHostileNode(t)
	defer node.close()
	const short = 50 * time.Millisecond
	// A busy machine stalls for seconds by itself, which must not end a whole answer.
	// Where the node hangs before that, an error is right however soon it comes.
	patient, patientServer := startGateway(t, node, relay.Options{IdleTimeout: 5 * time.Second, DrainTimeout: short})
	hasty, hastyServer := startGateway(t, node, relay.Options{IdleTimeout: short, DrainTimeout: short})
	type reply struct {
		status int
		body   []byte
		err    error
	}
	replies := make([]chan reply, len(manners))
	for i, m := range manners { // all at once, because some take seconds
		if m.hangs && m.slow && testing.Short() {
			continue
		}
		server := patientServer
		if m.hangs && !m.whole {
			server = hastyServer
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/"+strconv.Itoa(i), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		replies[i] = make(chan reply, 1)
		go func() {
			resp, err := server.Client().Do(request)
			if err != nil {
				replies[i] <- reply{err: err}
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			replies[i] <- reply{resp.StatusCode, body, err}
		}()
	}
	for i, m := range manners {
		t.Run(m.name, func(t *testing.T) {
			if replies[i] == nil {
				t.Skip("slow; run without -short")
			}
			r := <-replies[i]
			if r.status == 0 {
				t.Fatal(r.err)
			}
			failed := r.err != nil || r.status == http.StatusBadGateway || bytes.HasSuffix(r.body, []byte("\n\n")) && bytes.Contains(r.body, []byte(`data: {"error":`))
			if failed == m.whole {
				t.Errorf("%d %.200q, %v", r.status, r.body, r.err)
			}
			if m.whole && !bytes.Contains(r.body, []byte("Hello")) {
				t.Errorf("got %q", r.body)
			}
		})
	}
	for _, server := range []*httptest.Server{patientServer, hastyServer} {
		server.Close()
	}
	for _, g := range []*gateway{patient, hasty} {
		g.Close()
		if g.requests.Load() != g.ended.Load() {
			t.Errorf("of %d sessions %d were released", g.requests.Load(), g.ended.Load())
		}
	}
}

// resources are what a process must not lose.
type resources struct {
	goroutines, files int
	heap              uint64
}

func usage(t *testing.T) resources {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Log("descriptors are not counted here:", err)
	}
	return resources{runtime.NumGoroutine(), len(files), m.HeapAlloc}
}

// Clients that abort at any moment meet nodes that fail in any manner.
func TestHostileNode_LeavesNothingBehind(t *testing.T) {
	requests := 10_000
	if testing.Short() {
		requests = 500
	}
	node := startHostileNode(t)
	g, server := startGateway(t, node, relay.Options{IdleTimeout: 40 * time.Millisecond, DrainTimeout: 40 * time.Millisecond})
	transport := &http.Transport{DisableKeepAlives: true}
	ask := func(random *rand.Rand) {
		i := random.IntN(len(manners))
		for manners[i].slow && random.IntN(100) > 0 {
			i = random.IntN(len(manners))
		}
		ctx, abort := context.WithCancel(t.Context())
		defer abort()
		if random.IntN(4) == 0 { // the client leaves at some moment
			time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, abort)
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/"+strconv.Itoa(i), strings.NewReader("{}"))
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := transport.RoundTrip(request)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		if random.IntN(3) == 0 {
			_, _ = io.CopyN(io.Discard, resp.Body, int64(random.IntN(100)))
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	run := func(n int) {
		var workers sync.WaitGroup
		var next atomic.Int64
		for worker := range 32 {
			workers.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(worker))) //nolint:gosec // repeatable on purpose
				for next.Add(1) <= int64(n) {
					ask(random)
				}
			})
		}
		workers.Wait()
		waitIdle(t, g)
	}
	run(200)
	before := usage(t)
	run(requests)
	var after resources
	eventually(t, func() string {
		after = usage(t)
		if after.goroutines > before.goroutines+5 || after.files > before.files+5 || after.heap > before.heap+8<<20 {
			return fmt.Sprintf("%+v, before %+v", after, before)
		}
		return ""
	})
	t.Logf("after %d requests %+v, before them %+v", g.requests.Load(), after, before)
	server.Close()
	g.Close()
	node.close()
	if g.requests.Load() != g.ended.Load() {
		t.Errorf("of %d sessions %d were released", g.requests.Load(), g.ended.Load())
	}
}

// waitIdle waits until nothing is being read any more.
func waitIdle(t *testing.T, g *gateway) {
	t.Helper()
	eventually(t, func() string {
		if n := g.Active(); n > 0 {
			return fmt.Sprintf("%d answers are being read", n)
		}
		return ""
	})
}

// eventually waits until nothing is wrong.
func eventually(t *testing.T, wrong func() string) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		what := wrong()
		if what == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal(what)
		}
	}
}

// FuzzCopy looks for bodies with which a client sees a whole answer though the
// stream has no end, or something else than what the node sent.
func FuzzCopy(f *testing.F) {
	for _, m := range manners {
		if _, body, ok := strings.Cut(m.raw, "\r\n\r\n"); ok && len(body) < 1<<10 {
			f.Add(body, true, uint8(3))
			f.Add(body, false, uint8(200))
		}
	}
	for name, failure := range failures {
		if len(failure.stream) < 1<<10 {
			f.Add(delta+failure.stream, true, uint8(len(name)))
		}
	}
	f.Fuzz(func(t *testing.T, body string, stream bool, size uint8) {
		contentType := "application/json"
		if stream {
			contentType = sse
		}
		n := of(t.Context(), contentType, body, io.EOF)
		n.Response.Body = struct {
			io.Reader
			io.Closer
		}{&pieces{n.Response.Body, int(size) + 1}, n.Response.Body}
		r, c := relay.New(relay.Options{}), newClient()
		defer r.Close()
		result := r.Copy(t.Context(), c, n.Answer)
		got := c.got()
		switch {
		case result.Held:
			if got != "" || c.status != 0 {
				t.Errorf("held, and %d %q", c.status, got)
			}
		case result.Failure == nil:
			<-n.released
			if !stream && got != body || stream && !strings.HasPrefix(body+"\n\n", got) {
				t.Errorf("%q became %q", body, got)
			}
			if stream && !strings.Contains(got, "[DONE]") && !strings.Contains(got, "finish_reason") && !strings.Contains(got, `"type"`) {
				t.Errorf("%q is treated as a whole answer", got)
			}
		case result.Failure.Cause != outcome.Provider:
			t.Errorf("%+v", result.Failure)
		case stream && !strings.HasSuffix(got, "\"stream_interrupted\"}}\n\n"):
			t.Errorf("%q ends without an error", got)
		}
	})
}

// pieces reads at most size bytes at once.
type pieces struct {
	io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }
