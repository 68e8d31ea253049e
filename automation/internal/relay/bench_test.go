package relay_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
)

// BenchmarkRelay compares answers that come straight from the node, through
// httputil.ReverseProxy, and through a Relay.
func BenchmarkRelay(b *testing.B) {
	large := `{"data":["` + strings.Repeat("x", 10<<20) + `"]}`
	for _, answer := range []struct {
		name  string
		write http.HandlerFunc
	}{
		{"short", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, completion)
		}},
		{"stream_20000", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", sse)
			rc := http.NewResponseController(w)
			for range 20_000 {
				_, _ = io.WriteString(w, delta)
				_ = rc.Flush()
			}
			_, _ = io.WriteString(w, finish+done)
		}},
		{"10MB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			_, _ = io.WriteString(w, large)
		}},
	} {
		node := httptest.NewServer(answer.write)
		target, err := url.Parse(node.URL)
		if err != nil {
			b.Fatal(err)
		}
		proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
		answers := relay.New()
		relayed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
			resp, err := answers.Send(r.Context(), relay.Attempt{Cancel: cancel, Release: func(bool) {}, Send: func() (*http.Response, error) { //nolint:bodyclose // Copy closes it
				request, err := http.NewRequestWithContext(ctx, http.MethodPost, node.URL, http.NoBody)
				if err != nil {
					return nil, err
				}
				return http.DefaultClient.Do(request)
			}})
			if err != nil {
				cancel(nil)
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			answers.Copy(r.Context(), w, relay.Answer{Response: resp, Cancel: cancel, Release: func(bool) {}})
		}))
		proxied := httptest.NewServer(proxy)
		for name, server := range map[string]*httptest.Server{"node": node, "proxy": proxied, "relay": relayed} {
			b.Run(answer.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL, http.NoBody)
					if err != nil {
						b.Fatal(err)
					}
					resp, err := server.Client().Do(request)
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if err != nil || n == 0 || resp.StatusCode != http.StatusOK {
						b.Fatalf("status %d, %d bytes, error %v; want 200 and a body", resp.StatusCode, n, err)
					}
				}
			})
		}
		proxied.Close()
		relayed.Close()
		answers.Close()
		node.Close()
		http.DefaultClient.CloseIdleConnections()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections() //nolint:forcetypeassert // it is one
	}
}
