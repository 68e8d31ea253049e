// Command server is a small gateway for local trials of the automation module.
// It needs nothing but Go: the database is the SQLite file automation.db, and
// the Morpheus node is simulated in process. DATABASE_URL and PROXY_ROUTER_URL
// put real ones in their place; docs/environment.md has all variables.
//
//	go run ./examples/server
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
)

func main() {
	help := flag.NewFlagSet("server", flag.ExitOnError)
	help.Usage = func() { _, _ = fmt.Fprint(help.Output(), usage) }
	_ = help.Parse(os.Args[1:]) // it has no flags but -h and --help
	if help.NArg() > 0 {
		help.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func databaseName(driver string) string {
	if driver == "sqlite" {
		return "a SQLite file"
	}
	return "PostgreSQL"
}

const usage = `server is a small gateway for local trials of the automation module.

It takes no arguments. Open the address that it prints in a browser. It reads
these variables, and those in docs/environment.md:

  ADDR                    the address to listen on (127.0.0.1:8080)
  DATABASE_URL            postgres://… or sqlite:PATH (sqlite:automation.db)
  PROXY_ROUTER_URL        a real Morpheus node; without one it is simulated
  MODEL_MAPPINGS_FILE     names and ids of models (model_mappings.json, or the
                          one in the program)
  AUTOMATION_ADMIN_TOKEN  the operators' token (a new one at each start)
  CORS_ORIGINS            origins whose pages may call the gateway, with commas
                          (none)
  SHUTDOWN_DELAY          how long it still accepts requests after SIGTERM, while
                          GET /healthz/serving says 503 (0s)
`

// serving answers 200 until the process is asked to end. It does not depend on
// automation: a replica without automation still serves every other route.
func serving(ctx context.Context) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil {
			http.Error(w, "ending", http.StatusServiceUnavailable)
		}
	})
}

// run serves until ctx ends and returns when everything has ended.
func run(ctx context.Context, environ []string, out, logs io.Writer) (err error) {
	env := trialEnvironment(environ)
	cfg, err := automation.ParseConfig(env)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(logs, nil))
	for _, name := range automation.UnknownVariables() {
		logger.Warn("unknown variable in the environment", "variable", name)
	}

	db, err := openDatabase(ctx, env["DATABASE_URL"], logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	removeMapping, err := useEmbeddedMapping(&cfg, env["MODEL_MAPPINGS_FILE"])
	if err != nil {
		return err
	}
	defer removeMapping()
	node, err := useSimulatedNode(&cfg)
	if err != nil {
		return err
	}
	about := "A small gateway on the node " + cfg.ProxyRouterURL
	if node != nil {
		defer node.Close()
		about = "A small gateway on a simulated node"
	}
	about += " and " + databaseName(db.DriverName()) + "."

	recorder := metrics.New(metrics.Options{})
	m, err := automation.New(cfg, db.DB, identify, automation.Options{Logger: logger, Observer: recorder.Observer()})
	if err != nil {
		return err
	}
	recorder.Attach(m)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", env["ADDR"])
	if err != nil {
		return fmt.Errorf("%w; set ADDR to another address", err)
	}
	delay, err := time.ParseDuration(env["SHUTDOWN_DELAY"])
	if err != nil || delay < 0 {
		return fmt.Errorf("SHUTDOWN_DELAY: %q is not a duration such as 5s", env["SHUTDOWN_DELAY"])
	}
	mux := routes(m, recorder, cfg.AdminToken.Reveal())
	mux.Handle("GET /healthz/serving", serving(ctx))
	trialPage(mux, about, node)
	server := &http.Server{Handler: noSniff(allowOrigins(refuseDots(mux, m), env["CORS_ORIGINS"])), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn)}

	welcome(out, listener.Addr().String(), cfg.AdminToken.Reveal())
	return gateway{m, db, server, listener, delay, cfg.DrainTimeout, logger}.serve(ctx)
}

// gateway is the server and what ends with it.
type gateway struct {
	module       *automation.Module
	db           *database
	server       *http.Server
	listener     net.Listener
	delay, drain time.Duration // how long it still accepts requests at its end, and waits for those in flight
	log          *slog.Logger
}

// serve serves until ctx ends or something fails, and returns when everything
// has ended. The module ends after the server, so that requests in flight keep
// their sessions until they are done.
func (g gateway) serve(ctx context.Context) (err error) {
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- g.module.Run(live) }()
	go func() { served <- g.server.Serve(g.listener) }()
	migrated := g.db.migrateUntilDone(live)

	select {
	case <-ctx.Done():
		g.log.Info("ending: requests in flight finish first", "accepts_for", g.delay)
		// A load balancer needs a moment to see that this replica ends.
		select {
		case <-time.After(g.delay):
		case err = <-served:
		}
	case err = <-ran:
		ran <- nil
	case err = <-served:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.drain+time.Second)
	defer cancel()
	if timeout := g.server.Shutdown(grace); timeout != nil {
		err = errors.Join(err, timeout, g.server.Close())
	}
	end()
	<-migrated
	return errors.Join(err, <-ran)
}
