package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/cors"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
)

// routes is the whole gateway.
func routes(m *automation.Module, recorder prometheus.Collector, adminToken string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", m.Forward())
	mux.Handle("/v1/", m.Forward())
	mux.Handle("GET /api/v1/models", m.Models())
	mux.Handle("GET /v1/models", m.Models())
	mux.Handle(automation.BasePath+"/", m.API())
	mux.Handle(automation.AdminPath+"/", m.Admin(nil))
	mux.Handle("/console/", http.StripPrefix("/console", console.New(m, console.Options{Token: adminToken})))
	mux.Handle("GET /healthz/live", m.Live())
	mux.Handle("GET /healthz/ready", m.Ready())
	mux.Handle("GET /openapi.json", m.OpenAPI())
	mux.Handle("/docs/", http.StripPrefix("/docs", console.APIDocument(automation.OpenAPIDocument())))
	mux.Handle("/docs/operators/", http.StripPrefix("/docs/operators", console.APIDocument(automation.AdminOpenAPIDocument())))
	mux.Handle("GET /metrics", exposition(recorder))
	return mux
}

// refuseDots answers 404 to a path with a segment "." or "..": an http.ServeMux
// would redirect the request, and so a DELETE, to another resource.
func refuseDots(mux http.Handler, m *automation.Module) http.Handler {
	api, admin := m.API(), m.Admin(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isDots := func(segment string) bool { return segment == "." || segment == ".." }
		switch {
		case !slices.ContainsFunc(strings.Split(r.URL.Path, "/"), isDots):
			mux.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, automation.BasePath+"/"):
			api.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, automation.AdminPath+"/"):
			admin.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
}

// allowOrigins lets browsers call the gateway from the origins that are listed;
// an empty list allows none but the gateway's own.
func allowOrigins(h http.Handler, origins string) http.Handler {
	list := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(list(origins)) == 0 {
		return h
	}
	return cors.New(cors.Options{AllowedOrigins: list(origins), AllowedMethods: list(automation.CORSMethods),
		AllowedHeaders: list(automation.CORSAllowHeaders), ExposedHeaders: list(automation.CORSExposeHeaders)}).Handler(h)
}

// noSniff tells browsers to believe an answer's Content-Type. The module's own
// answers already do.
func noSniff(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// exposition is what Prometheus scrapes: the module's metrics and the process's.
func exposition(recorder prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(recorder, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// identify identifies "Bearer sk-alice" as alice, and "Bearer sk-ro-alice" as
// alice with a read-only key. A real gateway looks its keys up.
func identify(r *http.Request) (automation.Identity, error) {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-")
	if !ok || key == "" {
		return automation.Identity{}, errors.New("no key of the form sk-<user id>")
	}
	user, readOnly := strings.CutPrefix(key, "ro-")
	return automation.Identity{UserID: user, ReadOnly: readOnly}, nil
}

// welcome says what to try. A test runs what it prints.
func welcome(out io.Writer, addr, adminToken string) {
	base := "http://" + addr
	_, _ = fmt.Fprintf(out, `The gateway listens on %[1]s

Open it in a browser: a chat, your sessions, your settings, faults to try.
The operators' console is %[1]s/console/ (token: %[2]s)

A chat without a session gets one (see X-Automation-Session), and the next one reuses it:
  curl -i %[1]s/api/v1/chat/completions -H 'Authorization: Bearer sk-alice' -H 'Content-Type: application/json' \
    -d '{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hello"}]}'
The same, streamed:
  curl -N %[1]s/api/v1/chat/completions -H 'Authorization: Bearer sk-alice' -H 'Content-Type: application/json' \
    -d '{"model":"llama-3.3-70b","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
Alice's settings, her open sessions, and whether automation is on for her:
  curl %[1]s/api/v1/automation/settings -H 'Authorization: Bearer sk-alice'
  curl -X PUT %[1]s/api/v1/automation/settings -H 'Authorization: Bearer sk-alice' -H 'Content-Type: application/json' \
    -d '{"is_enabled":true,"session_duration":1800}'
  curl %[1]s/api/v1/automation/sessions -H 'Authorization: Bearer sk-alice'
  curl %[1]s/api/v1/automation/status -H 'Authorization: Bearer sk-alice'
The models, the components' health, the metrics, the API's description:
  curl %[1]s/api/v1/models
  curl %[1]s/healthz/ready
  curl %[1]s/metrics
  curl %[1]s/openapi.json

`, base, adminToken)
}
