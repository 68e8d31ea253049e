package automation_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

const llamaStreamBody = `{"model":"llama","stream":true,"messages":[{"role":"user","content":"one two three"}]}`

// hostile are the presets of a chat that end by themselves: what a client sees
// while the fault lasts, with and without a stream, and how many sessions have
// been paid for when two requests have met it.
var hostileResults = map[string]struct {
	plain  result
	stream result
	opens  int // at most
}{
	"chat-not-found":        {result{503, "session_unavailable"}, result{503, "session_unavailable"}, 1},
	"lost-storage":          {served, served, 1},
	"provider-lost-storage": {served, served, 1},
	"provider-down":         {result{502, "provider_error"}, result{502, "provider_error"}, 4},
	"tee-failed":            {result{502, "provider_error"}, result{502, "provider_error"}, 1},
	"chat-drop":             {result{502, "provider_error"}, result{502, "provider_error"}, 4},
	"model-context-length":  {result{400, "context_length_exceeded"}, result{400, "context_length_exceeded"}, 1},
	"model-content-filter":  {result{400, "content_filter"}, result{400, "content_filter"}, 1},
	"model-rate-limit":      {result{429, "rate_limit_exceeded"}, result{429, "rate_limit_exceeded"}, 1},
	"model-overloaded":      {result{503, "model_error"}, result{503, "model_error"}, 1},
	"stream-lingers":        {served, served, 1},
	"switching-protocols":   {result{503, "session_unavailable"}, result{503, "session_unavailable"}, 1},
	"redirect":              {result{503, "session_unavailable"}, result{503, "session_unavailable"}, 1},
	"empty-answer":          {result{502, "provider_error"}, result{502, "provider_error"}, 4},
	"stream-bare-json":      {result{502, ""}, result{200, "model_error"}, 4},
	"stream-ends":           {result{502, "provider_error"}, result{200, "stream_interrupted"}, 4},
	"stream-half-line":      {result{502, "provider_error"}, result{200, "stream_interrupted"}, 4},
	"old-node":              {served, served, 1},
}

// result is what a client sees: a status, and an error's code in the body or in
// an event of a stream; empty where the code does not matter.
type result struct {
	status int
	code   string
}

var served = result{200, ""}

func TestHostileNode_EachFaultHasOneResult(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("plays every fault of a node")
	}
	for _, p := range proxyroutertest.Presets() {
		want, ok := hostileResults[p.Name]
		if !ok {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			h := newHarness(t, setup{})
			first := h.chat("alice").header.Get("X-Automation-Session")
			h.untilIdle()
			h.node.Inject(proxyroutertest.Fault{Name: p.Name, Delay: 50 * time.Millisecond})
			for body, want := range map[string]result{chatBody("llama"): want.plain, llamaStreamBody: want.stream} {
				got := h.result(h.do(http.MethodPost, chatPath, "alice", body))
				if got.status != want.status || (want.code != "" && got.code != want.code) || (want == served && got.code != "") {
					t.Errorf("%+v, want %+v; the log:\n%s", got, want, h.log)
				}
			}
			if s := h.checkNode(); s.Opens > want.opens || s.Closes > 0 {
				t.Errorf("%d opens, want at most %d, and %d closes", s.Opens, want.opens, s.Closes)
			}
			h.node.ClearFaults()
			h.untilIdle()
			a := h.chat("alice")
			if a.status != http.StatusOK {
				t.Errorf("afterwards: status %d, body %s; want 200", a.status, a.body)
			}
			if id := a.header.Get("X-Automation-Session"); want.opens == 1 && id != first {
				t.Errorf("afterwards on %s, want the first session again", id)
			}
		})
	}
}

// result finds the error of an answer, which a stream has in an event.
func (h *harness) result(a answer) result {
	r := result{status: a.status, code: a.code()}
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		return r
	}
	whole := strings.HasSuffix(a.body, "data: [DONE]\n\n")
	for event := range strings.SplitSeq(a.body, "\n\n") {
		if data := strings.TrimPrefix(event, "data: "); strings.Contains(data, `"error"`) {
			r.code, whole = answer{body: data}.code(), true
		}
	}
	if !whole {
		h.t.Errorf("half an answer that looks whole: %q", a.body)
	}
	return r
}

// An answer that never comes is left by its client; its session serves nobody
// else as long as the node works on it.
func TestHostileNode_AHangingAnswerKeepsItsSessionAlone(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for real timeouts")
	}
	for _, name := range []string{"provider-hangs", "stream-silent", "error-stalls"} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{config: func(c *automation.Config) { c.DrainTimeout = 10 * time.Millisecond }})
			h.node.Inject(proxyroutertest.Fault{Name: name, Times: 1})
			ctx, cancel := context.WithCancel(t.Context())
			r := h.request(http.MethodPost, chatPath, "alice", llamaStreamBody).WithContext(ctx)
			var left sync.WaitGroup
			left.Go(func() {
				if resp, err := h.server.Client().Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
			h.until("the node has it", func() bool { return h.node.Stats().Chats == 1 })
			cancel()
			left.Wait()
			if a := h.chat("alice"); a.status != http.StatusOK {
				t.Errorf("status %d, body %s; want 200", a.status, a.body)
			}
			h.checkNode()
		})
	}
}

// descriptors counts the open files of the process, or returns 0 where the
// system does not list them.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// Whatever fails or is left, nothing of it stays.
func TestHostileNode_LeavesNothingBehind(t *testing.T) {
	requests := 1000
	switch {
	case os.Getenv("AUTOMATION_TEST_LONG") == "1":
		requests = 10_000
	case testing.Short():
		requests = 100
	}
	faults := []string{"provider-down", "chat-drop", "chat-cut", "model-context-length", "model-rate-limit", "stream-bare-json", "stream-ends",
		"stream-half-line", "empty-answer", "redirect", "tee-failed", "chat-not-found", "switching-protocols"}
	h := newHarness(t, setup{node: oneProvider})
	for i := range 4 {
		h.chat(fmt.Sprint("user", i))
	}
	measure := func() (goroutines, files int, heap uint64) {
		h.untilIdle()
		h.server.Client().CloseIdleConnections()
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), descriptors(), m.HeapAlloc
	}
	goroutines, files, heap := measure()

	var all sync.WaitGroup
	next := make(chan int)
	for range 4 {
		all.Go(func() {
			for i := range next {
				h.abuse(i, faults[i%len(faults)])
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	all.Wait()
	h.node.ClearFaults()

	h.until("goroutines and files are back where they were", func() bool {
		g, f, _ := measure()
		return g <= goroutines+20 && f <= files+20
	})
	goroutinesAfter, filesAfter, heapAfter := measure()
	t.Logf("%d requests: goroutines %d -> %d, files %d -> %d, heap %d KiB -> %d KiB", requests, goroutines, goroutinesAfter, files, filesAfter, heap>>10, heapAfter>>10)
	if heapAfter > heap+32<<20 {
		t.Errorf("the heap grew from %d to %d bytes, want at most 32 MiB more", heap, heapAfter)
	}
	// Sessions that the node may still work on cool down first.
	h.until("users are served again", func() bool { return h.chat("user0").status == http.StatusOK })
	if s := h.node.Stats(); s.Overlaps != 0 || s.Closes != 0 {
		t.Errorf("%d overlaps, %d closes", s.Overlaps, s.Closes)
	}
}

// abuse sends one request that fails or that its client leaves.
func (h *harness) abuse(i int, fault string) {
	h.node.Inject(proxyroutertest.Fault{Name: fault, Times: 1})
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(40))*time.Millisecond)
	defer cancel()
	body := llamaStreamBody
	if i%2 == 0 {
		body = chatBody("llama")
	}
	r := h.request(http.MethodPost, chatPath, fmt.Sprint("user", i%4), body).WithContext(ctx)
	resp, err := h.server.Client().Do(r)
	if err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, resp.Body, int64(rand.IntN(2000)))
	_ = resp.Body.Close()
}
