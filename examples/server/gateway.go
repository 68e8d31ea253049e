package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// routes is the whole gateway.
func routes(m *automation.Module, recorder prometheus.Collector) http.Handler {
	mux := http.NewServeMux()
	for _, route := range []string{"chat/completions", "embeddings", "audio/transcriptions", "audio/speech"} {
		mux.Handle("POST /api/v1/"+route, m.Forward())
	}
	mux.Handle("GET /api/v1/models", m.Models())
	mux.Handle(automation.BasePath+"/", m.API())
	mux.Handle(automation.AdminPath+"/", m.Admin(nil)) // 404 without AUTOMATION_ADMIN_TOKEN
	mux.Handle("GET /healthz/live", m.Live())
	mux.Handle("GET /healthz/ready", m.Ready())
	mux.Handle("GET /openapi.json", m.OpenAPI())
	mux.Handle("GET /metrics", exposition(recorder))
	return mux
}

// exposition is what Prometheus scrapes: the module's metrics and the process's.
func exposition(recorder prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(recorder, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// identify takes "Bearer sk-alice" for alice, and "Bearer sk-ro-alice" for
// alice with a key that may read only. A real gateway looks its keys up.
func identify(r *http.Request) (automation.Identity, error) {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-")
	if !ok || key == "" {
		return automation.Identity{}, errors.New("no key of the form sk-<user id>")
	}
	user, readOnly := strings.CutPrefix(key, "ro-")
	return automation.Identity{UserID: user, ReadOnly: readOnly}, nil
}

// welcome says what to try. A test runs what it prints.
func welcome(out io.Writer, addr string) {
	base := "http://" + addr
	_, _ = fmt.Fprintf(out, `The gateway listens on %[1]s

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
The models, the parts' health, the metrics, the API's description:
  curl %[1]s/api/v1/models
  curl %[1]s/healthz/ready
  curl %[1]s/metrics
  curl %[1]s/openapi.json

`, base)
}
