package automationtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
)

// TB is the part of testing.TB that is needed.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Cleanup(func())
}

// Options of a Gateway. The zero value works.
type Options struct {
	// Models are the names that can be asked for; nil is "llama", which is the
	// default as well, and "embedder".
	Models []string
	// Config may change the configuration, which is that of an empty
	// environment, with automation on by default, no budgets, and short intervals.
	Config func(*automation.Config)
	// Identify replaces the default, by which the key sk-alice is alice's.
	Identify automation.Identify
	// Node shapes the simulated node; its clock is the Gateway's.
	Node     proxyroutertest.Options
	Observer automation.Observer
	Logger   *slog.Logger // nil discards
}

// Gateway is a module that runs. No user has automation until On says so.
type Gateway struct {
	*automation.Module
	// Node is the simulated node, for its faults and its books. Its clock goes
	// with Advance.
	Node *proxyroutertest.Server
	// DB is the database, SQLite, for what a test wants to look at.
	DB *sqlx.DB

	tb    TB
	flags *flags.Store
	clock *clock
	end   []func() error
}

// New starts a Gateway and returns when that is ready. It ends with the test,
// which fails where anything of this does.
func New(tb TB, o Options) *Gateway {
	tb.Helper()
	g := &Gateway{tb: tb, clock: &clock{}}
	if err := g.start(o); err != nil {
		tb.Fatal(errors.Join(fmt.Errorf("automationtest: %w", err), g.close()))
		return nil
	}
	tb.Cleanup(func() {
		if err := g.close(); err != nil {
			tb.Errorf("automationtest: %v", err)
		}
	})
	return g
}

// close ends everything, in the order in which a gateway does.
func (g *Gateway) close() error {
	var errs []error
	for _, end := range slices.Backward(g.end) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

func (g *Gateway) start(o Options) error {
	dir, err := os.MkdirTemp("", "automationtest")
	if err != nil {
		return err
	}
	g.end = append(g.end, func() error { return os.RemoveAll(dir) })
	if g.DB, err = sqlx.Open("sqlite", "file:"+filepath.Join(dir, "automation.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=synchronous(OFF)"); err != nil {
		return err
	}
	g.end = append(g.end, g.DB.Close)
	g.DB.SetMaxOpenConns(1)
	if _, err := schema.Migrate(context.Background(), g.DB); err != nil {
		return err
	}
	g.flags = flags.NewStore(g.DB, flags.StoreOptions{})

	if o.Node.Username == "" {
		o.Node.Username, o.Node.Password = "gateway", "secret"
	}
	o.Node.Now = g.clock.now
	if g.Node, err = proxyroutertest.Start(o.Node); err != nil {
		return err
	}
	g.end = append(g.end, func() error { g.Node.Close(); return nil })
	client, err := proxyrouter.New(proxyrouter.Options{URL: g.Node.URL, Username: o.Node.Username, Password: o.Node.Password})
	if err != nil {
		return err
	}
	g.end = append(g.end, func() error { client.CloseIdleConnections(); return nil })

	cfg, err := configuration(dir, o)
	if err != nil {
		return err
	}
	if o.Identify == nil {
		o.Identify = byKey
	}
	g.Module, err = automation.New(cfg, g.DB, o.Identify, automation.Options{Node: node{client, g.clock}, Observer: o.Observer, Logger: o.Logger})
	if err != nil {
		return err
	}
	return g.run()
}

// run runs the module and waits until it is ready.
func (g *Gateway) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	g.end = append(g.end, func() error { cancel(); return <-done })
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		if p := g.Snapshot().Components; p["run"].OK && p["flags"].OK && p["mapping"].OK {
			return nil
		}
		select {
		case <-again.C:
		case err := <-done:
			done <- err
			return errors.Join(err, errors.New("the module has ended"))
		case <-late.C:
			return fmt.Errorf("the module is not ready: %v", g.Snapshot().Components)
		}
	}
}

// configuration is that of a test.
func configuration(dir string, o Options) (automation.Config, error) {
	models := map[string]string{"default": proxyroutertest.ModelID("llama"), "llama": proxyroutertest.ModelID("llama"), "embedder": proxyroutertest.ModelID("embedder")}
	if o.Models != nil {
		models = map[string]string{"default": proxyroutertest.ModelID(o.Models[0])}
		for _, name := range o.Models {
			models[name] = proxyroutertest.ModelID(name)
		}
	}
	cfg := automation.DefaultConfig()
	cfg.FeatureEnabled, cfg.DefaultOptIn = true, true
	cfg.MaxOpensPerHour, cfg.MaxOpensPerDay = 0, 0
	cfg.SweepInterval, cfg.AcquireTimeout, cfg.DrainTimeout = 20*time.Millisecond, 10*time.Second, 5*time.Second
	cfg.MappingsFile = filepath.Join(dir, "model_mappings.json")
	text, err := json.Marshal(models)
	if err != nil {
		return cfg, err
	}
	if o.Config != nil {
		o.Config(&cfg)
	}
	return cfg, os.WriteFile(filepath.Join(dir, "model_mappings.json"), text, 0o600)
}

// byKey identifies alice by "Bearer sk-alice".
func byKey(r *http.Request) (automation.Identity, error) {
	user, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-")
	if !ok || user == "" {
		return automation.Identity{}, errors.New("automationtest: send Authorization: Bearer sk-<user>")
	}
	return automation.Identity{UserID: user}, nil
}

// On gives users the feature, and Off takes it from them, at once. Whether a
// user who has the feature also wants it is theirs to say, by the settings API;
// in a Gateway they do unless they say no. Where it fails, the test does.
func (g *Gateway) On(users ...string) {
	g.tb.Helper()
	g.change(users, nil)
}

// Off is the opposite of On.
func (g *Gateway) Off(users ...string) {
	g.tb.Helper()
	g.change(nil, users)
}

func (g *Gateway) change(on, off []string) {
	g.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f, err := g.flags.Get(ctx, automation.FlagName)
	if err == nil {
		in := flags.NewIDs(append(without(f.EnabledUserIDs, off), on...)...)
		out := flags.NewIDs(append(without(f.DisabledUserIDs, on), off...)...)
		_, err = g.flags.Update(ctx, automation.FlagName, flags.Change{EnabledUserIDs: &in, DisabledUserIDs: &out}, "automationtest", 0)
	}
	if err == nil {
		err = g.Load(ctx)
	}
	if err != nil {
		g.tb.Fatal(fmt.Errorf("automationtest: %w", err))
	}
}

func without(ids flags.IDs, gone []string) []string {
	not := flags.NewIDs(gone...)
	var kept []string
	for _, id := range ids.List() {
		if !not.Has(id) {
			kept = append(kept, id)
		}
	}
	return kept
}
