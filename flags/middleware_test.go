package flags_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

func userHeader(r *http.Request) (string, bool) {
	id := r.Header.Get("User")
	return id, id != ""
}

func TestMiddleware(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(&flags.Flag{Name: "a", Enabled: true, EnabledUserIDs: flags.NewIDs("1"), Version: 1}), flags.Options{}))
	var seen flags.Decision
	respond := func(status int) http.Handler {
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
		"a user who has the flag":             {"1", respond(http.StatusGone), http.StatusOK, flags.ReasonUserEnabled},
		"a user who does not have the flag":   {"2", respond(http.StatusGone), http.StatusGone, flags.ReasonOutsidePercentage},
		"a request without a user":            {"", respond(http.StatusGone), http.StatusGone, flags.ReasonNoUser},
		"without a fallback, no handler runs": {"2", nil, http.StatusNotFound, flags.ReasonMissing},
	} {
		seen = flags.Decision{}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/x?y=z", nil)
		r.Header.Set("User", c.user)
		got := httptest.NewRecorder()
		flags.Middleware(w, "a", userHeader, c.fallback)(respond(http.StatusOK)).ServeHTTP(got, r)
		if got.Code != c.status || seen.Reason != c.reason {
			t.Errorf("%s: status %d, decision %+v; want status %d, reason %v", name, got.Code, seen, c.status, c.reason)
		}
	}
	want := []flags.DecisionCount{{Flag: "a", Reason: flags.ReasonUserEnabled, Count: 1}, {Flag: "a", Reason: flags.ReasonOutsidePercentage, Count: 2}}
	if diff := cmp.Diff(want, w.DecisionCounts()); diff != "" {
		t.Errorf("DecisionCounts must count each request with a user once (-want +got):\n%s", diff)
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
			t.Errorf("the inner request is %+v, want a copy of %+v", in, r)
		}
		if in.Context().Value(key{}) != "kept" {
			t.Error("a value of the outer context is lost")
		}
		want, _ := ctx.Deadline()
		if deadline, ok := in.Context().Deadline(); !ok || deadline != want {
			t.Errorf("the deadline is %v, want %v", deadline, want)
		}
		child, stop := context.WithCancel(in.Context())
		defer stop()
		cancel()
		<-child.Done()
	})).ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Error("the next handler was not called")
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
				t.Errorf("FromContext(%s) = %+v, %t; want version %d, true", name, d, ok, want)
			}
		}
		if d, ok := flags.FromContext(ctx, "c"); ok {
			t.Errorf("FromContext of a flag without Middleware: %+v, true; want false", d)
		}
	})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("User", "1")
	flags.Middleware(w, "a", userHeader, nil)(flags.Middleware(w, "b", userHeader, nil)(last)).ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Error("the last handler was not called")
	}
	if d, ok := flags.FromContext(t.Context(), "a"); ok {
		t.Errorf("FromContext of an empty context: %+v, true; want false", d)
	}
}

func TestMiddleware_AllocatesOnce(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(everybody(1)), flags.Options{}))
	h := flags.Middleware(w, "a", userHeader, nil)(keepRequest{})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/x", nil)
	r.Header.Set("User", benchUser)
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }); n > 1 {
		t.Errorf("the middleware allocates %v times, want at most 1", n)
	}
}
