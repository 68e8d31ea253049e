package automation

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is what the environment says. Start from LoadConfig or DefaultConfig:
// the zero Config is not valid. Printing, logging or marshalling a Config
// shows no secret.
//
// In the tags, env names the variable and envDefault its default. A variable
// with a unit is a plain number of it; other durations are written like 30s.
// The range holds its ends, in the same notation. An empty variable is unset.
type Config struct {
	// The master switch of this process; false beats everything in the database.
	FeatureEnabled bool `env:"AUTOMATION_FEATURE_ENABLED" envDefault:"false"`
	// A user's session duration until they choose one.
	DefaultSessionDuration time.Duration `env:"DEFAULT_SESSION_EXPIRATION" envDefault:"3600" unit:"seconds" range:"300..31536000"`
	// How long the clean-up keeps what has ended or was deleted.
	Retention time.Duration `env:"AUTOMATION_RETENTION_DAYS" envDefault:"30" unit:"days" range:"1..3650"`
	// Whether a user without stored settings has automation on.
	DefaultOptIn bool `env:"AUTOMATION_DEFAULT_OPT_IN" envDefault:"false"`
	// The shortest session duration a user may choose; the chain refuses less than 300 s.
	MinSessionDuration time.Duration `env:"AUTOMATION_MIN_SESSION_SECONDS" envDefault:"300" unit:"seconds" range:"300..31536000" why:"the chain refuses shorter sessions"`
	// The longest session duration a user may choose; the chain has a maximum of its own and caps silently.
	MaxSessionDuration time.Duration `env:"AUTOMATION_MAX_SESSION_SECONDS" envDefault:"86400" unit:"seconds" range:"300..31536000"`
	// Whom a session serves: `user`, the user it was opened for, or `shared`, any user of the model.
	SessionScope Scope `env:"AUTOMATION_SESSION_SCOPE" envDefault:"user" oneof:"user shared"`
	// Sessions that may be opened for one user in an hour; 0 is no limit.
	MaxOpensPerHour int `env:"AUTOMATION_MAX_OPENS_PER_HOUR" envDefault:"10" range:"0..1000000"`
	// Sessions that may be opened for one user in a day; 0 is no limit.
	MaxOpensPerDay int `env:"AUTOMATION_MAX_OPENS_PER_DAY" envDefault:"50" range:"0..1000000"`
	// Open sessions that one user may hold at once.
	MaxSessionsPerUser int `env:"AUTOMATION_MAX_SESSIONS_PER_USER" envDefault:"4" range:"1..1000000"`
	// Open sessions of all users together; 0 is no limit.
	MaxOpenSessions int `env:"AUTOMATION_MAX_OPEN_SESSIONS" envDefault:"0" range:"0..1000000"`
	// Names of models that keep one idle session ready, separated by commas.
	PrewarmModels []string `env:"AUTOMATION_PREWARM_MODELS"`
	// What a name that no model has gets: `reject`, an error with suggestions, or `default`, the default model.
	UnknownModel UnknownModel `env:"AUTOMATION_UNKNOWN_MODEL" envDefault:"reject" oneof:"reject default"`

	// The file that maps names to model ids.
	MappingsFile string `env:"MODEL_MAPPINGS_FILE" envDefault:"model_mappings.json"`
	// The live feed of models, http or https, without credentials: it is logged as it is. Off when empty.
	ActiveModelsURL string `env:"ACTIVE_MODELS_URL"`
	// The Morpheus node, http or https, without credentials, query or fragment.
	ProxyRouterURL string `env:"PROXY_ROUTER_URL"`
	// The node's user for basic auth.
	ProxyRouterUsername string `env:"PROXY_ROUTER_USERNAME"`
	// The node's password for basic auth.
	ProxyRouterPassword Secret `env:"PROXY_ROUTER_PASSWORD"`
	// For the example server and the command: `postgres://…` or `sqlite:PATH`.
	DatabaseURL Secret `env:"DATABASE_URL"`
	// The bearer token of the admin API, printable ASCII without spaces; when empty, the admin API answers 404.
	AdminToken Secret `env:"AUTOMATION_ADMIN_TOKEN"`

	// How often the flags are read from the database; a listener may be faster.
	FlagPollInterval time.Duration `env:"AUTOMATION_FLAG_POLL_INTERVAL" envDefault:"1s" range:"10ms..1h"`
	// A file that keeps the flags over a restart without the database, one for each process; none when empty.
	FlagSnapshotFile string `env:"AUTOMATION_FLAG_SNAPSHOT_FILE"`
	// How often rollouts are looked at, and this replica's counts handed in.
	RolloutInterval time.Duration `env:"AUTOMATION_ROLLOUT_INTERVAL" envDefault:"2s" range:"10ms..10m"`
	// A receiver of the rollouts' events, http or https; none when empty.
	RolloutWebhookURL Secret `env:"AUTOMATION_ROLLOUT_WEBHOOK_URL"`
	// What the receiver checks the signatures with; at least 16 bytes.
	RolloutWebhookSecret Secret `env:"AUTOMATION_ROLLOUT_WEBHOOK_SECRET"`
	// How often the mapping file is looked at for a change.
	MappingReloadInterval time.Duration `env:"AUTOMATION_MAPPING_RELOAD_INTERVAL" envDefault:"2s" range:"10ms..1h"`
	// How often the live feed is asked for a change.
	FeedRefreshInterval time.Duration `env:"AUTOMATION_FEED_REFRESH_INTERVAL" envDefault:"300s" range:"1s..24h"`
	// How often the sweeper looks for sessions to close, to reconcile and to renew.
	SweepInterval time.Duration `env:"AUTOMATION_SWEEP_INTERVAL" envDefault:"5s" range:"10ms..1h"`
	// How often the clean-up looks for rows past their retention.
	CleanupInterval time.Duration `env:"AUTOMATION_CLEANUP_INTERVAL" envDefault:"1h" range:"1s..168h"`
	// How long a claim outlives a holder that has stopped; the heartbeat comes every third of it.
	SessionLease time.Duration `env:"AUTOMATION_SESSION_LEASE" envDefault:"30s" range:"3s..10m"`
	// The least time a session must have left to be handed out.
	SessionMargin time.Duration `env:"AUTOMATION_SESSION_MARGIN" envDefault:"30s" range:"0s..1h"`
	// How long before its end a session kept ready gets a successor.
	RenewAhead time.Duration `env:"AUTOMATION_RENEW_AHEAD" envDefault:"60s" range:"0s..1h"`
	// How long after its end a session is closed; closing early locks stake for a day.
	CloseAfter time.Duration `env:"AUTOMATION_CLOSE_AFTER" envDefault:"60s" range:"0s..1h"`
	// How long a request waits for a session.
	AcquireTimeout time.Duration `env:"AUTOMATION_ACQUIRE_TIMEOUT" envDefault:"60s" range:"100ms..30m"`
	// How long the node may take to open a session.
	OpenTimeout time.Duration `env:"AUTOMATION_OPEN_TIMEOUT" envDefault:"3m" range:"1s..30m"`
	// How long the end of the process waits for what is in flight.
	DrainTimeout time.Duration `env:"AUTOMATION_DRAIN_TIMEOUT" envDefault:"30s" range:"0s..30m"`
	// The most bytes of a chat request that are read to find its model.
	MaxBodyBytes int64 `env:"AUTOMATION_MAX_BODY_BYTES" envDefault:"33554432" range:"1024..1073741824"`
	// Connections of the host's pool that the module uses at once.
	MaxDBConnections int `env:"AUTOMATION_MAX_DB_CONNECTIONS" envDefault:"16" range:"1..10000"`

	// Unknown lists variables that begin with AUTOMATION_ and mean nothing
	// here, each with the nearest that does: probably misspelt, worth a warning.
	Unknown []string
}

// Scope says whom a session serves.
type Scope string

// The scopes of a session.
const (
	ScopeUser   Scope = "user"   // the user it was opened for
	ScopeShared Scope = "shared" // any user of the model
)

// UnknownModel says what a request gets that names no model we know.
type UnknownModel string

// What an unknown model's name leads to.
const (
	UnknownModelReject  UnknownModel = "reject"  // an error with suggestions
	UnknownModelDefault UnknownModel = "default" // the default model
)

// LoadConfig reads the process's environment. The error names every wrong
// variable and what was expected of it, one a line, and repeats no secret.
func LoadConfig() (Config, error) {
	return ParseConfig(env.ToMap(os.Environ()))
}

// parsers teaches package env a type; this one cannot fail, so that no error
// repeats the text.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[Secret](): func(text string) (any, error) { return NewSecret(text), nil },
}

// DefaultConfig is the Config of an empty environment.
func DefaultConfig() Config {
	c, err := ParseConfig(nil)
	if err != nil {
		panic(err) // a default in the tags is wrong; a test says so first
	}
	return c
}

// ParseConfig is LoadConfig for an environment given as a map. White space
// around a value is ignored, but for secrets.
func ParseConfig(environ map[string]string) (Config, error) {
	var c Config
	wrong := complaints{}
	values := map[string]string{}
	for _, v := range variables {
		text, err := v.read(environ)
		if err != nil {
			wrong[v.name] = err
		}
		values[v.name] = text
	}
	if err := env.ParseWithOptions(&c, env.Options{Environment: values, FuncMap: parsers}); err != nil {
		return Config{}, fmt.Errorf("automation: config: the tags of Config do not fit its fields: %w", err)
	}
	c.PrewarmModels = tidyList(c.PrewarmModels)
	c.Unknown = unknownVariables(environ)
	c.check(wrong)
	if err := wrong.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// Validate complains about every field that is out of bounds or at odds with
// another, under the names of their variables.
func (c Config) Validate() error {
	wrong := complaints{}
	c.check(wrong)
	return wrong.err()
}

// check adds complaints about single fields, then about fields that do not go
// together where each is right by itself.
func (c Config) check(wrong complaints) {
	c.checkBounds(wrong)
	for name, value := range map[string]string{
		"ACTIVE_MODELS_URL": c.ActiveModelsURL,
		"PROXY_ROUTER_URL":  c.ProxyRouterURL,
	} {
		if err := checkHTTPURL(value); err != nil {
			wrong.add(name, err)
		}
	}
	if strings.ContainsAny(c.ProxyRouterURL, "?#") {
		wrong.add("PROXY_ROUTER_URL", errors.New("expected a URL without query or fragment"))
	}
	if strings.Contains(c.ProxyRouterUsername, ":") {
		wrong.add("PROXY_ROUTER_USERNAME", errors.New("expected no colon: basic auth allows none"))
	}
	for name, value := range map[string]string{
		"PROXY_ROUTER_USERNAME": c.ProxyRouterUsername,
		"PROXY_ROUTER_PASSWORD": c.ProxyRouterPassword.Reveal(),
	} {
		if strings.ContainsFunc(value, isControl) {
			wrong.add(name, errors.New("expected no line end or other control character"))
		}
	}
	if strings.ContainsFunc(c.AdminToken.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		wrong.add("AUTOMATION_ADMIN_TOKEN", errors.New("expected printable ASCII without spaces or line ends"))
	}
	if err := checkHTTPURL(c.RolloutWebhookURL.Reveal()); err != nil {
		wrong.add("AUTOMATION_ROLLOUT_WEBHOOK_URL", err)
	}
	if c.RolloutWebhookURL.Reveal() != "" && len(c.RolloutWebhookSecret.Reveal()) < 16 {
		wrong.add("AUTOMATION_ROLLOUT_WEBHOOK_SECRET", errors.New("expected at least 16 bytes where there is a webhook"))
	}
	if err := checkDatabaseURL(c.DatabaseURL.Reveal()); err != nil {
		wrong.add("DATABASE_URL", err)
	}

	const minimum, maximum = "AUTOMATION_MIN_SESSION_SECONDS", "AUTOMATION_MAX_SESSION_SECONDS"
	together := wrong.pairs()
	together(c.MaxSessionDuration >= c.MinSessionDuration, maximum, "at least", minimum)
	together(c.DefaultSessionDuration >= c.MinSessionDuration, "DEFAULT_SESSION_EXPIRATION", "at least", minimum)
	together(c.DefaultSessionDuration <= c.MaxSessionDuration, "DEFAULT_SESSION_EXPIRATION", "at most", maximum)
	together(c.SessionMargin < c.MinSessionDuration, "AUTOMATION_SESSION_MARGIN", "less than", minimum)
	together(c.RenewAhead < c.MinSessionDuration, "AUTOMATION_RENEW_AHEAD", "less than", minimum)
}

// complaints holds one complaint a variable, by its name.
type complaints map[string]error

// add keeps the first complaint about a variable.
func (w complaints) add(name string, err error) {
	if w[name] == nil {
		w[name] = err
	}
}

// pairs returns a check of two variables that stays silent where one of them
// is wrong by itself.
func (w complaints) pairs() func(ok bool, name, relation, other string) {
	alone := make(map[string]bool)
	for name := range w {
		alone[name] = true
	}
	return func(ok bool, name, relation, other string) {
		if !ok && !alone[name] && !alone[other] {
			w.add(name, fmt.Errorf("expected %s %s", relation, other))
		}
	}
}

// err joins the complaints in the order of Config's fields.
func (w complaints) err() error {
	var errs []error
	for _, v := range variables {
		if err := w[v.name]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", v.name, err))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("automation: config:\n%w", errors.Join(errs...))
}
