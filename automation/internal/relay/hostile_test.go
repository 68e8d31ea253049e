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

// A behavior is one way in which a hostile node answers.
type behavior struct {
	name  string
	raw   string // what the node sends
	hangs bool   // the node then leaves the connection open
	reset bool   // the node then resets the connection
	slow  bool   // the exchange takes seconds
	// whole is true if the client must get a complete answer. Otherwise it must
	// get an error: a status, an error event, or a connection that breaks.
	whole bool
}

// head returns the status line and the header of an answer.
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

var behaviors = []behavior{
	{name: "a whole stream", raw: head("200 OK", streamHead) + chunk(delta) + chunk(finish+done) + lastChunk, whole: true},
	{name: "a whole stream, ended by closing", raw: head("200 OK", closedHead) + delta + finish + done, whole: true},
	{name: "a stream cut into odd chunks", raw: head("200 OK", streamHead) + chunk(delta[:7]) + chunk(delta[7:]+done[:5]) + chunk(done[5:]) + lastChunk, whole: true},
	{name: "a stream that stays open after [DONE]", raw: head("200 OK", streamHead) + chunk(delta+done), hangs: true, whole: true},
	{name: "a whole completion", raw: head("200 OK", jsonHead+"Content-Length: "+strconv.Itoa(len(completion))) + completion, whole: true},
	{name: "a whole completion in chunks", raw: head("200 OK", jsonHead+"Transfer-Encoding: chunked") + chunk(completion[:9]) + chunk(completion[9:]) + lastChunk, whole: true},
	{name: "informational answers first", raw: strings.Repeat(head("103 Early Hints", "Link: </x>"), 3) + head("200 OK", jsonHead+"Content-Length: "+strconv.Itoa(len(completion))) + completion, whole: true},

	{name: "nothing at all"},
	{name: "a reset", reset: true},
	{name: "something that is not HTTP", raw: "banana\r\n\r\n"},
	{name: "half a header", raw: "HTTP/1.1 200 OK\r\nContent-Ty"},
	{name: "a header that does not end", raw: "HTTP/1.1 200 OK\r\nX-Flood: " + strings.Repeat("x", 11<<20), slow: true},
	{name: "endless informational answers", raw: strings.Repeat(head("103 Early Hints", "Link: </x>"), 100_000), slow: true},
	{name: "a switch to another protocol", raw: head("101 Switching Protocols", "Upgrade: x\nConnection: Upgrade"), hangs: true},
	{name: "no content", raw: head("204 No Content", "X: y")},
	{name: "an empty answer", raw: head("200 OK", jsonHead+"Content-Length: 0")},
	{name: "an empty stream", raw: head("200 OK", streamHead) + lastChunk},
	{name: "only comments", raw: head("200 OK", streamHead) + chunk(": ping\n\n") + lastChunk},
	{name: "an HTML page", raw: head("200 OK", "Content-Type: text/event-stream\nConnection: close") + "<html>502 Bad Gateway</html>"},
	{name: "two lengths", raw: head("200 OK", jsonHead+"Content-Length: 5\nContent-Length: 6") + "hello"},
	{name: "a chunk without a valid size", raw: head("200 OK", streamHead) + chunk(delta) + "zz\r\n"},
	{name: "half a chunk", raw: head("200 OK", streamHead) + chunk(delta)[:20]},
	{name: "a body shorter than its length", raw: head("200 OK", jsonHead+"Content-Length: 1000") + completion},
	{name: "a body cut off by its length", raw: head("200 OK", jsonHead+"Content-Length: 20") + completion},
	{name: "a large body shorter than its length", raw: head("200 OK", jsonHead+"Content-Length: 2000000") + `{"x":"` + strings.Repeat("x", 1<<20), slow: true},
	{name: "a reset in the middle of a stream", raw: head("200 OK", streamHead) + chunk(delta), reset: true},
	{name: "a stream that ends early", raw: head("200 OK", streamHead) + chunk(delta) + lastChunk},
	{name: "a stream, ended early by closing", raw: head("200 OK", closedHead) + delta},
	{name: "a stream that ends within a line", raw: head("200 OK", closedHead) + delta + delta[:30]},
	{name: "bare JSON after the events", raw: head("200 OK", streamHead) + chunk(delta) + chunk(`{"providerModelError":{"error":{"message":"x"}}}`) + lastChunk},
	{name: "bare JSON in two chunks", raw: head("200 OK", streamHead) + chunk(delta) + chunk(`{"error":`) + chunk(`"session expired"}`) + lastChunk},
	{name: "an error as an event", raw: head("200 OK", streamHead) + chunk(delta) + chunk("data: {\"error\":{\"message\":\"x\"}}\n\n") + lastChunk},
	{name: "a stream that stalls", raw: head("200 OK", streamHead) + chunk(delta), hangs: true},
	{name: "a header and then nothing", raw: head("200 OK", streamHead), hangs: true},
	{name: "an error that stalls", raw: head("500 Internal Server Error", "Content-Length: 100") + `{"error":"x"`, hangs: true, slow: true},
	{name: "corrupt compression", raw: head("200 OK", jsonHead+"Content-Encoding: gzip\nContent-Length: 4") + "\x1f\x8bxx"},
}

// hostileNode answers each request with the behavior whose index its path is.
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
			n.conns.Go(func() { serveHostile(conn) })
		}
	})
	return n
}

func (n *hostileNode) close() {
	_ = n.Close()
	n.conns.Wait()
}

func serveHostile(conn net.Conn) {
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
	b := behaviors[i]
	_, _ = io.WriteString(conn, b.raw)
	if b.reset {
		_ = conn.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it is one
	}
	if b.hangs {
		_, _ = io.Copy(io.Discard, reader) // until the gateway closes
	}
}

// gateway forwards requests to a node as package chat does.
type gateway struct {
	*relay.Relay
	node     string
	client   *http.Client
	requests atomic.Int64
	ended    atomic.Int64 // requests whose session was released, or is left to the caller
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
	held := true // Release is not called
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
		if result.Begun {
			return
		}
		held = result.Held
	}
	if held {
		g.ended.Add(1)
	}
	http.Error(w, `{"error":{}}`, http.StatusBadGateway)
}

func startGateway(t testing.TB, node *hostileNode, idleTimeout, drainTimeout time.Duration) (*gateway, *httptest.Server) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	g := &gateway{node: "http://" + node.Addr().String(), client: &http.Client{Transport: transport}, Relay: relay.NewWithTimeouts(idleTimeout, drainTimeout)}
	server := httptest.NewUnstartedServer(g)
	server.Config.ErrorLog = nil
	server.Start()
	return g, server
}

func TestHostileNode_NeverMakesHalfAnAnswerLookWhole(t *testing.T) {
	node := startHostileNode(t)
	defer node.close()
	const short = 50 * time.Millisecond
	// On a busy machine any answer can stall for seconds, which must not make a whole
	// answer fail. The short time-out is for nodes that hang, whose answers must fail.
	longIdle, longIdleServer := startGateway(t, node, 5*time.Second, short)
	shortIdle, shortIdleServer := startGateway(t, node, short, short)
	type reply struct {
		status int
		body   []byte
		err    error
	}
	replies := make([]chan reply, len(behaviors))
	for i, b := range behaviors { // all at once, because some take seconds
		if b.hangs && b.slow && testing.Short() {
			continue
		}
		server := longIdleServer
		if b.hangs && !b.whole {
			server = shortIdleServer
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
	for i, b := range behaviors {
		t.Run(b.name, func(t *testing.T) {
			if replies[i] == nil {
				t.Skip("slow; run without -short")
			}
			r := <-replies[i]
			if r.status == 0 {
				t.Fatalf("no answer: %v", r.err)
			}
			hasErrorEvent := bytes.HasSuffix(r.body, []byte("\n\n")) && bytes.Contains(r.body, []byte(`data: {"error":`))
			isWhole := r.err == nil && r.status != http.StatusBadGateway && !hasErrorEvent
			if isWhole != b.whole {
				t.Errorf("status %d, body %.200q, error %v: looks whole: %t, want %t", r.status, r.body, r.err, isWhole, b.whole)
			}
			if b.whole && !bytes.Contains(r.body, []byte("Hello")) {
				t.Errorf("body %q, want the node's text", r.body)
			}
		})
	}
	for _, server := range []*httptest.Server{longIdleServer, shortIdleServer} {
		server.Close()
	}
	for _, g := range []*gateway{longIdle, shortIdle} {
		g.Close()
		if g.requests.Load() != g.ended.Load() {
			t.Errorf("%d requests, but %d sessions were released", g.requests.Load(), g.ended.Load())
		}
	}
}

// resources are what a process holds and must not leak.
type resources struct {
	goroutines, files int
	heap              uint64
}

func currentResources(t *testing.T) resources {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Log("file descriptors cannot be counted on this system:", err)
	}
	return resources{runtime.NumGoroutine(), len(files), m.HeapAlloc}
}

// Clients that abort at random moments send requests to nodes that fail in all
// ways.
func TestHostileNode_LeaksNoResources(t *testing.T) {
	requests := 10_000
	if testing.Short() {
		requests = 500
	}
	node := startHostileNode(t)
	g, server := startGateway(t, node, 40*time.Millisecond, 40*time.Millisecond)
	transport := &http.Transport{DisableKeepAlives: true}
	sendRequest := func(random *rand.Rand) {
		i := random.IntN(len(behaviors))
		for behaviors[i].slow && random.IntN(100) > 0 {
			i = random.IntN(len(behaviors))
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
					sendRequest(random)
				}
			})
		}
		workers.Wait()
		waitIdle(t, g)
	}
	run(200)
	before := currentResources(t)
	run(requests)
	var after resources
	waitUntil(t, func() (problem string) {
		after = currentResources(t)
		if after.goroutines > before.goroutines+5 || after.files > before.files+5 || after.heap > before.heap+8<<20 {
			return fmt.Sprintf("resources after the requests %+v, before them %+v", after, before)
		}
		return ""
	})
	t.Logf("resources after %d requests %+v, before them %+v", g.requests.Load(), after, before)
	server.Close()
	g.Close()
	node.close()
	if g.requests.Load() != g.ended.Load() {
		t.Errorf("%d requests, but %d sessions were released", g.requests.Load(), g.ended.Load())
	}
}

// waitIdle waits until the gateway reads no answer any more.
func waitIdle(t *testing.T, g *gateway) {
	t.Helper()
	waitUntil(t, func() (problem string) {
		if n := g.Active(); n > 0 {
			return fmt.Sprintf("%d answers are still being read", n)
		}
		return ""
	})
}

// waitUntil waits until check returns no problem.
func waitUntil(t *testing.T, check func() (problem string)) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		problem := check()
		if problem == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal(problem)
		}
	}
}

// FuzzCopy looks for bodies of which the client gets something other than what
// the node sent, or that look whole to it though they have no end marker.
func FuzzCopy(f *testing.F) {
	for _, b := range behaviors {
		if _, body, ok := strings.Cut(b.raw, "\r\n\r\n"); ok && len(body) < 1<<10 {
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
		n := newNodeWithBody(t.Context(), contentType, body, io.EOF)
		n.Response.Body = struct {
			io.Reader
			io.Closer
		}{&shortReader{n.Response.Body, int(size) + 1}, n.Response.Body}
		r, c := relay.New(), newClient()
		defer r.Close()
		result := r.Copy(t.Context(), c, n.Answer)
		got := c.received()
		switch {
		case result.Held:
			if got != "" || c.status != 0 {
				t.Errorf("the answer is held, but the client got status %d, body %q", c.status, got)
			}
		case result.Failure == nil:
			<-n.released
			if !stream && got != body {
				t.Errorf("the node sent %q, the client got %q", body, got)
			}
			if stream && !strings.HasPrefix(body+"\n\n", got) {
				t.Errorf("the node sent %q, the client got %q", body, got)
			}
			hasEndMarker := strings.Contains(got, "[DONE]") || strings.Contains(got, "finish_reason") || strings.Contains(got, `"type"`)
			if stream && !hasEndMarker {
				t.Errorf("%q has no end marker but is treated as a whole answer", got)
			}
		case result.Failure.Cause != outcome.Provider:
			t.Errorf("failure %+v, want the cause %s", result.Failure, outcome.Provider)
		case stream && !strings.HasSuffix(got, "\"stream_interrupted\"}}\n\n"):
			t.Errorf("the client got %q, which ends without an error event", got)
		}
	})
}

// shortReader reads at most size bytes at once.
type shortReader struct {
	io.Reader
	size int
}

func (r *shortReader) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(len(b), r.size)]) }
