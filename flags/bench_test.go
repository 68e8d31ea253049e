package flags_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

const benchUser = "4f1c6c1e-0d0b-4b8e-9c39-3f8f2f0d9a11"

// BenchmarkBareSHA256 is the lower bound for a decision by percentage: the hash
// of the same input, already joined.
func BenchmarkBareSHA256(b *testing.B) {
	b.ReportAllocs()
	input := []byte("automation." + benchUser)
	var sink byte
	for b.Loop() {
		sum := sha256.Sum256(input)
		sink ^= sum[0]
	}
	_ = sink
}

// ids returns "user-0" to "user-<n-1>", parsed as a list in the table is.
func ids(n int) flags.IDs {
	list := make([]string, n)
	for i := range list {
		list[i] = strconv.Quote("user-" + strconv.Itoa(i))
	}
	var set flags.IDs
	if err := json.Unmarshal([]byte("["+strings.Join(list, ", ")+"]"), &set); err != nil {
		panic(err)
	}
	return set
}

func BenchmarkEvaluate(b *testing.B) {
	for _, c := range []struct {
		name string
		flag *flags.Flag
		user string
	}{
		{"percentage", &flags.Flag{Name: "automation", Enabled: true, Percentage: 50 * flags.Percent}, benchUser},
		{"listed among 1000", &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(1000)}, "user-777"},
		{"listed among 10000", &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(10_000)}, "user-7777"},
		{"unlisted among 1000", &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(1000), Percentage: 50 * flags.Percent}, benchUser},
		{"unlisted among 10000", &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(10_000), Percentage: 50 * flags.Percent}, benchUser},
		{"disabled", &flags.Flag{Name: "automation"}, benchUser},
		{"missing", nil, benchUser},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			on := 0
			for b.Loop() {
				if flags.Evaluate(c.flag, c.user).On {
					on++
				}
			}
		})
	}
	// A different user each time, in random order, so that the processor's caches
	// do not hold the list. They do hold the user's id, as in a request.
	for _, n := range []int{1000, 10_000} {
		b.Run("any of "+strconv.Itoa(n)+" listed", func(b *testing.B) {
			f := &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(n)}
			var users []string
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
				users = append(users, "user-"+strconv.Itoa(i))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				flags.Evaluate(f, users[i])
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

// benchWatcher returns a watcher that has read f.
func benchWatcher(b *testing.B, f *flags.Flag) *flags.Watcher {
	b.Helper()
	w := flags.NewWatcher(tableOf(f), flags.Options{})
	if err := w.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	return w
}

// BenchmarkDecide is Evaluate plus finding the flag and counting the decision.
func BenchmarkDecide(b *testing.B) {
	w := benchWatcher(b, &flags.Flag{Name: "automation", Enabled: true, Percentage: 50 * flags.Percent})
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.Decide("automation", benchUser)
		}
	})
	b.Run("on all processors", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				w.Decide("automation", benchUser)
			}
		})
	})
}

var background = context.Background()

// keepRequest is a handler that makes the request escape to the heap, as real
// handlers do.
type keepRequest struct{}

func (keepRequest) ServeHTTP(_ http.ResponseWriter, r *http.Request) { lastRequest = r }

var lastRequest *http.Request

func BenchmarkMiddleware(b *testing.B) {
	// A heap as large as a gateway's, so that the garbage collector does not run
	// more often than there: in a heap of 4 MB an allocation costs several times
	// as much.
	heap := make([]byte, 64<<20)
	defer runtime.KeepAlive(heap)
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/chat/completions", nil)
	if err != nil {
		b.Fatal(err)
	}
	user := func(*http.Request) (string, bool) { return benchUser, true }
	w := benchWatcher(b, &flags.Flag{Name: "automation", Enabled: true, Percentage: 100 * flags.Percent})
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{
		{"bare handler", keepRequest{}},
		// The cost of any middleware that passes a value to the next handler.
		{"WithContext alone", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			keepRequest{}.ServeHTTP(w, r.WithContext(background))
		})},
		{"one decision", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.Decide("automation", benchUser)
			keepRequest{}.ServeHTTP(rw, r)
		})},
		{"middleware", flags.Middleware(w, "automation", user, nil)(keepRequest{})},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.handler.ServeHTTP(nil, request)
			}
		})
	}
}
