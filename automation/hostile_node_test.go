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

// hostileResults has the presets of proxyroutertest that affect a chat and end by
// themselves: what a client sees during the fault, with and without a stream, and how
// many sessions have been paid for after two requests.
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

// result is what a client sees: a status, and the code of an error in the body or in
// an event of a stream.
type result struct {
	status int
	code   string
}

// served is the result of an answer without an error.
var served = result{200, ""}

// matches reports whether a result is the wanted one. Except in served, an empty code
// means that any code is right.
func (want result) matches(got result) bool {
	if want == served {
		return got == served
	}
	return got.status == want.status && (want.code == "" || got.code == want.code)
}

func TestHostileNode_EachFaultHasTheExpectedResult(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("injects every fault of a node")
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
				if !want.matches(got) {
					t.Errorf("result %+v, want %+v; the log:\n%s", got, want, h.log)
				}
			}
			if s := h.checkNode(); s.Opens > want.opens || s.Closes > 0 {
				t.Errorf("%d sessions opened and %d closed, want at most %d and 0", s.Opens, s.Closes, want.opens)
			}
			h.node.ClearFaults()
			h.untilIdle()
			a := h.chat("alice")
			if a.status != http.StatusOK {
				t.Errorf("afterwards: status %d, body %s; want 200", a.status, a.body)
			}
			if id := a.header.Get("X-Automation-Session"); want.opens == 1 && id != first {
				t.Errorf("afterwards on session %s, want %s again", id, first)
			}
		})
	}
}

// result returns the result of an answer. It asserts that a stream ends with [DONE] or
// an error.
func (h *harness) result(a answer) result {
	r := result{status: a.status, code: a.code()}
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		return r
	}
	isComplete := strings.HasSuffix(a.body, "data: [DONE]\n\n")
	for event := range strings.SplitSeq(a.body, "\n\n") {
		if data := strings.TrimPrefix(event, "data: "); strings.Contains(data, `"error"`) {
			r.code, isComplete = answer{body: data}.code(), true
		}
	}
	if !isComplete {
		h.t.Errorf("the stream ends with neither [DONE] nor an error: %q", a.body)
	}
	return r
}

// If a client leaves an answer that never comes, the session serves no other request
// while the node still works on it.
func TestHostileNode_AHangingAnswerBlocksItsSession(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for real time-outs")
	}
	for _, name := range []string{"provider-hangs", "stream-silent", "error-stalls"} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{config: func(c *automation.Config) { c.DrainTimeout = 10 * time.Millisecond }})
			h.node.Inject(proxyroutertest.Fault{Name: name, Times: 1})
			ctx, cancel := context.WithCancel(t.Context())
			r := h.request(http.MethodPost, chatPath, "alice", llamaStreamBody).WithContext(ctx)
			var client sync.WaitGroup
			client.Go(func() {
				if resp, err := h.server.Client().Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
			h.until("the node has the request", func() bool { return h.node.Stats().Chats == 1 })
			cancel()
			client.Wait()
			if a := h.chat("alice"); a.status != http.StatusOK {
				t.Errorf("status %d, body %s; want 200", a.status, a.body)
			}
			h.checkNode()
		})
	}
}

// descriptors counts the open files of the process, or returns 0 if the system does
// not list them.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// Requests that fail, or whose clients leave, leak no goroutines, files or memory.
func TestHostileNode_LeaksNothing(t *testing.T) {
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
				h.sendDoomedRequest(i, faults[i%len(faults)])
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	all.Wait()
	h.node.ClearFaults()

	h.until("goroutines and files are as few as before", func() bool {
		goroutinesNow, filesNow, _ := measure()
		return goroutinesNow <= goroutines+20 && filesNow <= files+20
	})
	goroutinesAfter, filesAfter, heapAfter := measure()
	t.Logf("%d requests: goroutines %d -> %d, files %d -> %d, heap %d KiB -> %d KiB", requests, goroutines, goroutinesAfter, files, filesAfter, heap>>10, heapAfter>>10)
	if heapAfter > heap+32<<20 {
		t.Errorf("the heap grew from %d to %d bytes, want at most 32 MiB more", heap, heapAfter)
	}
	// Sessions that the node may still work on cool down first.
	h.until("users are served again", func() bool { return h.chat("user0").status == http.StatusOK })
	if s := h.node.Stats(); s.Overlaps != 0 || s.Closes != 0 {
		t.Errorf("%d overlapping requests, %d sessions closed; want 0 and 0", s.Overlaps, s.Closes)
	}
}

// sendDoomedRequest sends one request that meets the fault, or that its client leaves
// after up to 40 ms.
func (h *harness) sendDoomedRequest(i int, fault string) {
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
