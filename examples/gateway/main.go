// Command gateway is the least that a gateway needs to offer all of the
// automation feature: DATABASE_URL names its PostgreSQL and PROXY_ROUTER_URL
// its Morpheus node.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/pgpool"
)

var logger = slog.New(slog.NewJSONHandler(os.Stderr, nil))

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, "127.0.0.1:8080"); err != nil {
		logger.Error("gateway", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string) error {
	cfg, err := automation.LoadConfig()
	if err != nil {
		return err
	}
	db, err := pgpool.Open(os.Getenv("DATABASE_URL"), pgpool.Options{})
	if err != nil {
		return err
	}
	if _, err := schema.Migrate(ctx, db); err != nil {
		return err
	}
	recorder := metrics.New(metrics.Options{})
	m, err := automation.New(cfg, db, identify, automation.Options{Observer: recorder.Observer(), Logger: logger})
	if err != nil {
		return err
	}
	recorder.Attach(m)
	if err := m.Load(ctx); err != nil { // fails now if the mapping or a table is missing
		return err
	}
	server := &http.Server{Addr: addr, Handler: routes(m, recorder), ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := context.WithCancel(ctx)
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- m.Run(live); stop() }()
	go func() { <-ctx.Done(); _ = server.Shutdown(live); end() }() // requests in flight finish first
	if err = server.ListenAndServe(); errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	stop()
	return errors.Join(err, <-ended, db.Close())
}

func routes(m *automation.Module, recorder prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(recorder)
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", m.Forward()) // chat, embeddings, audio; or m.Sessions before a handler of yours
	mux.Handle("GET /api/v1/models", m.Models())
	mux.Handle(automation.BasePath+"/", m.API())
	mux.Handle(automation.AdminPath+"/", m.Admin(nil))
	mux.Handle("GET /healthz/live", m.Live())
	mux.Handle("GET /healthz/ready", m.Ready())
	mux.Handle("GET /openapi.json", m.OpenAPI())
	exposition := promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) // the other handlers forbid sniffing themselves
	noSniff := func(w http.ResponseWriter) { w.Header().Set("X-Content-Type-Options", "nosniff") }
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { noSniff(w); exposition.ServeHTTP(w, r) })
	return mux
}

// identify returns the user of a request. A real gateway looks the key up.
func identify(r *http.Request) (automation.Identity, error) {
	if user, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-"); ok {
		return automation.Identity{UserID: user}, nil
	}
	return automation.Identity{}, errors.New("no key")
}
