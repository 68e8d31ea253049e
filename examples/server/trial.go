package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	gatewayautomation "github.com/MorpheusAIs/gateway-automation"
	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/dbopen"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// trialEnvironment returns the environment as a map, with the defaults of a trial.
func trialEnvironment(environ []string) map[string]string {
	env := map[string]string{
		"ADDR":                       "127.0.0.1:8080",
		"SHUTDOWN_DELAY":             "0s",
		"DATABASE_URL":               "sqlite:automation.db",
		"AUTOMATION_FEATURE_ENABLED": "true",
		"AUTOMATION_DEFAULT_OPT_IN":  "true",
		"AUTOMATION_ADMIN_TOKEN":     rand.Text(),
	}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && value != "" {
			env[name] = value
		}
	}
	return env
}

// database is the pool, and whether its tables are up to date.
type database struct {
	*sqlx.DB
	log      *slog.Logger
	trial    bool // a new SQLite file, in which every user gets the feature
	migrated bool
}

// openDatabase opens the database and brings its tables up to date. A database
// that cannot be reached is not an error: the gateway serves without automation
// until it can be.
func openDatabase(ctx context.Context, url string, logger *slog.Logger) (*database, error) {
	pool, created, err := dbopen.Open(url)
	if err != nil {
		return nil, err
	}
	db := &database{DB: pool, log: logger, trial: created}
	first, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = db.migrate(first)
	switch {
	case errors.Is(err, schema.ErrUnavailable):
		logger.Warn("the database cannot be reached; requests are served without automation until it can", "error", err)
	case err != nil:
		return nil, errors.Join(err, pool.Close())
	}
	return db, nil
}

func (db *database) migrate(ctx context.Context) error {
	if _, err := schema.Migrate(ctx, db.DB); err != nil {
		return err
	}
	if db.trial {
		all := 100 * flags.Percent
		if _, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(ctx, automation.FlagName, flags.Change{Percentage: &all}, "examples/server", 0); err != nil {
			return err
		}
	}
	db.migrated = true
	return nil
}

// migrateUntilDone repeats the migration until it succeeds or ctx ends; then it
// closes the channel.
func (db *database) migrateUntilDone(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !db.migrated && ctx.Err() == nil {
			err := db.migrate(ctx)
			if err == nil {
				db.log.Info("the database is migrated")
				return
			}
			db.log.Warn("the database is not migrated yet, trying again", "error", err)
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
			}
		}
	}()
	return done
}

// useEmbeddedMapping writes the mapping that is embedded in the program to a
// temporary file if the environment names no file and the working directory has none.
func useEmbeddedMapping(cfg *automation.Config, named string) (remove func(), err error) {
	if _, err := os.Stat(cfg.MappingsFile); named != "" || err == nil {
		return func() {}, nil
	}
	file, err := os.CreateTemp("", "model_mappings-*.json")
	if err != nil {
		return nil, err
	}
	_, err = file.Write(gatewayautomation.ReferenceMappings)
	cfg.MappingsFile = file.Name()
	return func() { _ = os.Remove(file.Name()) }, errors.Join(err, file.Close())
}

// useSimulatedNode starts a simulated node if the configuration names no node.
func useSimulatedNode(cfg *automation.Config) (*proxyroutertest.Server, error) {
	if cfg.ProxyRouterURL != "" {
		return nil, nil
	}
	table, err := mapping.Load(cfg.MappingsFile)
	if err != nil {
		return nil, fmt.Errorf("%w (MODEL_MAPPINGS_FILE names the file)", err)
	}
	// After a restart the node must not reuse ids that the database still has.
	opts := proxyroutertest.Options{Username: "trial", Password: "trial", OpenLatency: 300 * time.Millisecond,
		ChunkDelay: 20 * time.Millisecond, SelfClose: true, Seed: mathrand.Uint64()} //nolint:gosec // only makes ids differ
	known := map[string]bool{}
	for _, m := range append(table.Models(), table.Default()) {
		if known[m.ID] {
			continue
		}
		known[m.ID] = true
		opts.Models = append(opts.Models, proxyroutertest.Model{ID: m.ID, Name: m.Name, Type: kindOf(m.Name),
			Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(1)}, {Address: proxyroutertest.ProviderAddress(2)}}})
	}
	node, err := proxyroutertest.Start(opts)
	if err != nil {
		return nil, err
	}
	cfg.ProxyRouterURL, cfg.ProxyRouterUsername, cfg.ProxyRouterPassword = node.URL, "trial", automation.NewSecret("trial")
	return node, nil
}

// kindOf guesses a model's type from its name, for the simulated registry only.
func kindOf(name string) string {
	for part, kind := range map[string]string{"embedding": "EMBEDDING", "whisper": "STT", "tts": "TTS"} {
		if strings.Contains(strings.ToLower(name), part) {
			return kind
		}
	}
	return "LLM"
}
