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

// BenchmarkBareSHA256 is the floor: the hash of the same input, ready made.
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

// ids is a list as it comes from the table.
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
	// A different user each time, in an order of their own, so that the lists are
	// not in the processor's caches; the users' ids are, as a request's would be.
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

func watching(b *testing.B, f *flags.Flag) *flags.Watcher {
	b.Helper()
	w := flags.NewWatcher(tableOf(f), flags.Options{})
	if err := w.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	return w
}

// BenchmarkDecide is Evaluate with the look at the snapshot and the count.
func BenchmarkDecide(b *testing.B) {
	w := watching(b, &flags.Flag{Name: "automation", Enabled: true, Percentage: 50 * flags.Percent})
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

type nothing struct{}

func (nothing) ServeHTTP(_ http.ResponseWriter, r *http.Request) { kept = r }

var kept *http.Request // as if a handler had let it escape, which real ones do

func BenchmarkMiddleware(b *testing.B) {
	// A gateway's heap, so that the collector runs no more often than there: in
	// a heap of 4 MB each allocation would cost a multiple in collections.
	heap := make([]byte, 64<<20)
	defer runtime.KeepAlive(heap)
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/chat/completions", nil)
	if err != nil {
		b.Fatal(err)
	}
	user := func(*http.Request) (string, bool) { return benchUser, true }
	w := watching(b, &flags.Flag{Name: "automation", Enabled: true, Percentage: 100 * flags.Percent})
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{
		{"bare handler", nothing{}},
		{"WithContext alone", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			nothing{}.ServeHTTP(w, r.WithContext(background))
		})}, // what any middleware pays that hands something down
		{"one decision", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			w.Decide("automation", benchUser)
			kept = r
		})},
		{"around it", flags.Middleware(w, "automation", user, nil)(nothing{})},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.handler.ServeHTTP(nil, request)
			}
		})
	}
}
