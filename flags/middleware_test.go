package flags_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

func userHeader(r *http.Request) (string, bool) {
	id := r.Header.Get("User")
	return id, id != ""
}

func TestMiddleware(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(&flags.Flag{Name: "a", Enabled: true, EnabledUserIDs: flags.NewIDs("1"), Version: 1}), flags.Options{}))
	var seen flags.Decision
	answer := func(status int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen, _ = flags.FromContext(r.Context(), "a")
			w.WriteHeader(status)
		})
	}
	for name, c := range map[string]struct {
		user     string
		fallback http.Handler
		status   int
		reason   flags.Reason
	}{
		"a user who has it goes to the next":  {"1", answer(http.StatusGone), http.StatusOK, flags.ReasonUserEnabled},
		"another goes to the fallback":        {"2", answer(http.StatusGone), http.StatusGone, flags.ReasonOutsidePercentage},
		"nobody goes to the fallback":         {"", answer(http.StatusGone), http.StatusGone, flags.ReasonNoUser},
		"without a fallback nothing is found": {"2", nil, http.StatusNotFound, flags.ReasonMissing},
	} {
		seen = flags.Decision{}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/x?y=z", nil)
		r.Header.Set("User", c.user)
		got := httptest.NewRecorder()
		flags.Middleware(w, "a", userHeader, c.fallback)(answer(http.StatusOK)).ServeHTTP(got, r)
		if got.Code != c.status || seen.Reason != c.reason {
			t.Errorf("%s: %d, %+v", name, got.Code, seen)
		}
	}
	if n := w.DecisionCounts(); len(n) != 2 {
		t.Errorf("each request is decided once, and nobody not at all: %+v", n)
	}
}

func TestMiddleware_ChangesOnlyTheContext(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(everybody(1)), flags.Options{}))
	type key struct{}
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "kept"), time.Hour)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/x", http.NoBody)
	r.Header.Set("User", "1")
	r.SetPathValue("id", "7")
	called := false
	flags.Middleware(w, "a", userHeader, nil)(http.HandlerFunc(func(_ http.ResponseWriter, in *http.Request) {
		called = true
		if in == r || r.Context() != ctx {
			t.Error("the outer request was changed")
		}
		if in.URL != r.URL || in.Body != r.Body || in.PathValue("id") != "7" || in.Method != r.Method || in.Header.Get("User") != "1" {
			t.Errorf("%+v", in)
		}
		if in.Context().Value(key{}) != "kept" {
			t.Error("a value of the outer context is lost")
		}
		if want, _ := ctx.Deadline(); func() bool { d, ok := in.Context().Deadline(); return !ok || d != want }() {
			t.Error("the deadline is lost")
		}
		child, stop := context.WithCancel(in.Context())
		defer stop()
		cancel()
		<-child.Done()
	})).ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Error("not called")
	}
}

func TestFromContext_FindsTheFlagByName(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(everybody(1), &flags.Flag{Name: "b", Enabled: true, Percentage: 100 * flags.Percent, Version: 2}), flags.Options{}))
	called := false
	last := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		called = true
		ctx := context.WithoutCancel(r.Context())
		for name, want := range map[string]int64{"a": 1, "b": 2} {
			if d, ok := flags.FromContext(ctx, name); !ok || d.Version != want {
				t.Errorf("%s: %+v, %t", name, d, ok)
			}
		}
		if d, ok := flags.FromContext(ctx, "c"); ok {
			t.Errorf("c: %+v", d)
		}
	})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("User", "1")
	flags.Middleware(w, "a", userHeader, nil)(flags.Middleware(w, "b", userHeader, nil)(last)).ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Error("not called")
	}
	if d, ok := flags.FromContext(t.Context(), "a"); ok {
		t.Errorf("an empty context: %+v", d)
	}
}

func TestMiddleware_AllocatesOnce(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(everybody(1)), flags.Options{}))
	h := flags.Middleware(w, "a", userHeader, nil)(nothing{})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/x", nil)
	r.Header.Set("User", benchUser)
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
