package automation

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// variables returns the rules of each variable and what is wrong with its field, in
// the order of Config's fields. Names and defaults are in the fields' tags.
func (c *Config) variables() []variable {
	const maxCount = 1_000_000
	return []variable{
		boolean("AUTOMATION_FEATURE_ENABLED"),
		seconds("DEFAULT_SESSION_EXPIRATION", c.DefaultSessionDuration),
		number("AUTOMATION_RETENTION_DAYS", c.RetentionDays, 1, 3650),
		boolean("AUTOMATION_DEFAULT_OPT_IN"),
		seconds("AUTOMATION_MIN_SESSION_SECONDS", c.MinSessionDuration),
		seconds("AUTOMATION_MAX_SESSION_SECONDS", c.MaxSessionDuration),
		choice("AUTOMATION_SESSION_SCOPE", c.SessionScope, ScopeUser, ScopeShared),
		number("AUTOMATION_MAX_OPENS_PER_HOUR", c.MaxOpensPerHour, 0, maxCount),
		number("AUTOMATION_MAX_OPENS_PER_DAY", c.MaxOpensPerDay, 0, maxCount),
		number("AUTOMATION_MAX_SESSIONS_PER_USER", c.MaxSessionsPerUser, 1, maxCount),
		number("AUTOMATION_MAX_REPLACEMENTS_PER_HOUR", c.MaxReplacementsPerHour, 0, maxCount),
		number("AUTOMATION_MAX_OPEN_SESSIONS", c.MaxOpenSessions, 0, maxCount),
		unchecked("AUTOMATION_PREWARM_MODELS"),
		choice("AUTOMATION_UNKNOWN_MODEL", c.UnknownModel, UnknownModelReject, UnknownModelDefault),
		unchecked("MODEL_MAPPINGS_FILE"),
		checked("ACTIVE_MODELS_URL", checkURL(c.ActiveModelsURL)),
		checked("PROXY_ROUTER_URL", checkBaseURL(c.ProxyRouterURL)),
		checked("PROXY_ROUTER_USERNAME", checkUsername(c.ProxyRouterUsername)),
		checked("PROXY_ROUTER_PASSWORD", checkNoControl(c.ProxyRouterPassword.Reveal())),
		checked("AUTOMATION_ADMIN_TOKEN", checkAdminToken(c.AdminToken.Reveal())),
		duration("AUTOMATION_FLAG_POLL_INTERVAL", c.FlagPollInterval, 10*time.Millisecond, time.Hour),
		unchecked("AUTOMATION_FLAG_SNAPSHOT_FILE"),
		duration("AUTOMATION_ROLLOUT_INTERVAL", c.RolloutInterval, 10*time.Millisecond, 10*time.Minute),
		checked("AUTOMATION_ROLLOUT_WEBHOOK_URL", checkURL(c.RolloutWebhookURL.Reveal())),
		checked("AUTOMATION_ROLLOUT_WEBHOOK_SECRET", checkWebhookSecret(c.RolloutWebhookSecret.Reveal())),
		duration("AUTOMATION_MAPPING_RELOAD_INTERVAL", c.MappingReloadInterval, 10*time.Millisecond, time.Hour),
		duration("AUTOMATION_FEED_REFRESH_INTERVAL", c.FeedRefreshInterval, time.Second, 24*time.Hour),
		duration("AUTOMATION_SWEEP_INTERVAL", c.SweepInterval, 10*time.Millisecond, time.Hour),
		duration("AUTOMATION_CLEANUP_INTERVAL", c.CleanupInterval, time.Second, 168*time.Hour),
		duration("AUTOMATION_SESSION_LEASE", c.SessionLease, 3*time.Second, 10*time.Minute),
		duration("AUTOMATION_SESSION_COOLDOWN", c.SessionCoolDown, 0, time.Hour),
		duration("AUTOMATION_SESSION_LINGER", c.SessionLinger, 0, 2*time.Second),
		duration("AUTOMATION_SESSION_MARGIN", c.SessionMargin, 0, time.Hour),
		duration("AUTOMATION_RENEW_AHEAD", c.RenewAhead, 0, time.Hour),
		duration("AUTOMATION_CLOSE_AFTER", c.CloseAfter, 0, time.Hour),
		duration("AUTOMATION_ACQUIRE_TIMEOUT", c.AcquireTimeout, 100*time.Millisecond, 30*time.Minute),
		duration("AUTOMATION_RECONCILE_TIMEOUT", c.ReconcileTimeout, time.Second, 10*time.Minute),
		duration("AUTOMATION_OPEN_TIMEOUT", c.OpenTimeout, time.Second, 30*time.Minute),
		duration("AUTOMATION_DRAIN_TIMEOUT", c.DrainTimeout, 0, 30*time.Minute),
		number("AUTOMATION_MAX_BODY_BYTES", c.MaxBodyBytes, 1024, 1<<30),
		number("AUTOMATION_MAX_BUFFERED_BYTES", c.MaxBufferedBytes, 1<<20, 1<<40),
		number("AUTOMATION_MAX_DB_CONNECTIONS", c.MaxDBConnections, 1, 10_000),
	}
}

// variable is the rule of one variable of the environment, and what is wrong with its
// field.
type variable struct {
	name     string
	expected string // for the error of a value that cannot be parsed; empty for text
	bounds   string // for the documentation; empty if there are none
	err      error
}

// unexpected returns the error of a value. It is called only for types that hold no
// secret, so it may repeat a part of the value.
func unexpected(expected, got string) error {
	return fmt.Errorf("expected %s, got %q", expected, text.Truncate(got, 43))
}

func unchecked(name string) variable { return variable{name: name} }

func checked(name string, err error) variable { return variable{name: name, err: err} }

func boolean(name string) variable { return variable{name: name, expected: "true or false"} }

// number is the rule of a whole number from low to high.
func number[T int | int64](name string, value, low, high T) variable {
	v := variable{name: name, expected: fmt.Sprintf("a whole number from %d to %d", low, high), bounds: fmt.Sprintf("%d to %d", low, high)}
	if value < low || value > high {
		v.err = unexpected(v.expected, strconv.FormatInt(int64(value), 10))
	}
	return v
}

// seconds is the rule of a session's length in whole seconds. The chain refuses
// sessions shorter than 300 s.
func seconds(name string, value time.Duration) variable {
	const low, high = 300, 365 * 24 * 3600
	bounds := fmt.Sprintf("%d to %d seconds", low, high)
	v := variable{name: name, expected: "a whole number of seconds from 300, the chain's minimum, to 31536000", bounds: bounds}
	if value < low*time.Second || value > high*time.Second || value%time.Second != 0 {
		v.err = unexpected(v.expected, strconv.FormatFloat(value.Seconds(), 'f', -1, 64))
	}
	return v
}

// duration is the rule of a duration, written like 30s.
func duration(name string, value, low, high time.Duration) variable {
	bounds := formatDuration(low) + " to " + formatDuration(high)
	v := variable{name: name, expected: "a duration such as 30s or 5m, from " + bounds, bounds: bounds}
	if value < low || value > high {
		v.err = unexpected(v.expected, formatDuration(value))
	}
	return v
}

// formatDuration writes a duration without zero units: 1h, not 1h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// choice is the rule of a value that must be one of a few words.
func choice[T ~string](name string, value T, choices ...T) variable {
	words := make([]string, len(choices))
	for i, c := range choices {
		words[i] = string(c)
	}
	v := variable{name: name, bounds: strings.Join(words, ", ")}
	if !slices.Contains(choices, value) {
		v.err = unexpected(strings.Join(words, " or "), string(value))
	}
	return v
}

// parse sets the fields from the environment. It returns the errors of the variables
// that cannot be parsed.
func (c *Config) parse(environ map[string]string) fieldErrors {
	values := map[string]string{}
	for _, v := range c.variables() {
		values[v.name] = environ[v.name]
		if field := fieldOf(v.name); field.Type != reflect.TypeFor[Secret]() {
			values[v.name] = strings.TrimSpace(environ[v.name])
		}
	}
	err := env.ParseWithOptions(c, env.Options{Environment: values, FuncMap: parsers})
	faults, all := fieldErrors{}, c.variables()
	for _, e := range parseErrors(err) {
		i := slices.IndexFunc(all, func(v variable) bool {
			return fieldOf(v.name).Name == e.Name
		})
		faults.add(all[i].name, unexpected(all[i].expected, values[all[i].name]))
	}
	return faults
}

// fieldOf returns the field of Config for a variable.
func fieldOf(variable string) (field reflect.StructField) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if f.Tag.Get("env") == variable {
			return f
		}
	}
	return field
}

// parseErrors returns the errors of the fields that package env could not parse.
func parseErrors(err error) (list []env.ParseError) {
	all, _ := errors.AsType[env.AggregateError](err)
	for _, err := range all.Errors {
		if p, ok := errors.AsType[env.ParseError](err); ok {
			list = append(list, p)
		}
	}
	return list
}

// parsers are package env's parsers for two types. The parser of secrets never fails,
// so no error repeats a secret.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[Secret]():        func(text string) (any, error) { return NewSecret(text), nil },
	reflect.TypeFor[time.Duration](): func(text string) (any, error) { return parseDuration(text) },
}

// parseDuration parses a duration such as 30s, or a plain number as seconds.
func parseDuration(text string) (time.Duration, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return time.ParseDuration(text)
	case n < 0 || n > int64(math.MaxInt64/time.Second):
		return 0, errors.New("out of range")
	}
	return time.Duration(n) * time.Second, nil
}
