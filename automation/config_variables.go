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

// variables is the table of what each variable may be, in the order of Config's
// fields. Names and defaults are in the fields' tags.
func (c *Config) variables() []variable {
	const many = 1_000_000
	return []variable{
		flagOf("AUTOMATION_FEATURE_ENABLED"),
		seconds("DEFAULT_SESSION_EXPIRATION", c.DefaultSessionDuration),
		number("AUTOMATION_RETENTION_DAYS", c.RetentionDays, 1, 3650),
		flagOf("AUTOMATION_DEFAULT_OPT_IN"),
		seconds("AUTOMATION_MIN_SESSION_SECONDS", c.MinSessionDuration),
		seconds("AUTOMATION_MAX_SESSION_SECONDS", c.MaxSessionDuration),
		choice("AUTOMATION_SESSION_SCOPE", c.SessionScope, ScopeUser, ScopeShared),
		number("AUTOMATION_MAX_OPENS_PER_HOUR", c.MaxOpensPerHour, 0, many),
		number("AUTOMATION_MAX_OPENS_PER_DAY", c.MaxOpensPerDay, 0, many),
		number("AUTOMATION_MAX_SESSIONS_PER_USER", c.MaxSessionsPerUser, 1, many),
		number("AUTOMATION_MAX_REPLACEMENTS_PER_HOUR", c.MaxReplacementsPerHour, 0, many),
		number("AUTOMATION_MAX_OPEN_SESSIONS", c.MaxOpenSessions, 0, many),
		anything("AUTOMATION_PREWARM_MODELS"),
		choice("AUTOMATION_UNKNOWN_MODEL", c.UnknownModel, UnknownModelReject, UnknownModelDefault),
		anything("MODEL_MAPPINGS_FILE"),
		checked("ACTIVE_MODELS_URL", checkURL(c.ActiveModelsURL)),
		checked("PROXY_ROUTER_URL", checkBaseURL(c.ProxyRouterURL)),
		checked("PROXY_ROUTER_USERNAME", checkUsername(c.ProxyRouterUsername)),
		checked("PROXY_ROUTER_PASSWORD", checkLine(c.ProxyRouterPassword.Reveal())),
		checked("AUTOMATION_ADMIN_TOKEN", checkToken(c.AdminToken.Reveal())),
		span("AUTOMATION_FLAG_POLL_INTERVAL", c.FlagPollInterval, 10*time.Millisecond, time.Hour),
		anything("AUTOMATION_FLAG_SNAPSHOT_FILE"),
		span("AUTOMATION_ROLLOUT_INTERVAL", c.RolloutInterval, 10*time.Millisecond, 10*time.Minute),
		checked("AUTOMATION_ROLLOUT_WEBHOOK_URL", checkURL(c.RolloutWebhookURL.Reveal())),
		checked("AUTOMATION_ROLLOUT_WEBHOOK_SECRET", checkSecret(c.RolloutWebhookSecret.Reveal())),
		span("AUTOMATION_MAPPING_RELOAD_INTERVAL", c.MappingReloadInterval, 10*time.Millisecond, time.Hour),
		span("AUTOMATION_FEED_REFRESH_INTERVAL", c.FeedRefreshInterval, time.Second, 24*time.Hour),
		span("AUTOMATION_SWEEP_INTERVAL", c.SweepInterval, 10*time.Millisecond, time.Hour),
		span("AUTOMATION_CLEANUP_INTERVAL", c.CleanupInterval, time.Second, 168*time.Hour),
		span("AUTOMATION_SESSION_LEASE", c.SessionLease, 3*time.Second, 10*time.Minute),
		span("AUTOMATION_SESSION_COOLDOWN", c.SessionCoolDown, 0, time.Hour),
		span("AUTOMATION_SESSION_LINGER", c.SessionLinger, 0, 2*time.Second),
		span("AUTOMATION_SESSION_MARGIN", c.SessionMargin, 0, time.Hour),
		span("AUTOMATION_RENEW_AHEAD", c.RenewAhead, 0, time.Hour),
		span("AUTOMATION_CLOSE_AFTER", c.CloseAfter, 0, time.Hour),
		span("AUTOMATION_ACQUIRE_TIMEOUT", c.AcquireTimeout, 100*time.Millisecond, 30*time.Minute),
		span("AUTOMATION_RECONCILE_TIMEOUT", c.ReconcileTimeout, time.Second, 10*time.Minute),
		span("AUTOMATION_OPEN_TIMEOUT", c.OpenTimeout, time.Second, 30*time.Minute),
		span("AUTOMATION_DRAIN_TIMEOUT", c.DrainTimeout, 0, 30*time.Minute),
		number("AUTOMATION_MAX_BODY_BYTES", c.MaxBodyBytes, 1024, 1<<30),
		number("AUTOMATION_MAX_BUFFERED_BYTES", c.MaxBufferedBytes, 1<<20, 1<<40),
		number("AUTOMATION_MAX_DB_CONNECTIONS", c.MaxDBConnections, 1, 10_000),
	}
}

// variable is what one variable of the environment may be, and what is wrong
// with its field as it is.
type variable struct {
	name     string
	expected string // where something can fail to be parsed
	bounds   string // for the documentation; empty where anything goes
	err      error
}

// unexpected says what was expected. Only bounded kinds come here, so that got
// is no secret; it is cut all the same.
func unexpected(expected, got string) error {
	return fmt.Errorf("expected %s, got %q", expected, text.Truncate(got, 43))
}

func anything(name string) variable { return variable{name: name} }

func checked(name string, err error) variable { return variable{name: name, err: err} }

func flagOf(name string) variable { return variable{name: name, expected: "true or false"} }

// number is a whole number from low to high.
func number[T int | int64](name string, value, low, high T) variable {
	v := variable{name: name, expected: fmt.Sprintf("a whole number from %d to %d", low, high), bounds: fmt.Sprintf("%d to %d", low, high)}
	if value < low || value > high {
		v.err = unexpected(v.expected, strconv.FormatInt(int64(value), 10))
	}
	return v
}

// seconds is a session's length, which is written as a number of seconds. The
// chain refuses shorter sessions.
func seconds(name string, value time.Duration) variable {
	const low, high = 300, 365 * 24 * 3600
	bounds := fmt.Sprintf("%d to %d seconds", low, high)
	v := variable{name: name, expected: "a whole number of seconds from 300, the chain's minimum, to 31536000", bounds: bounds}
	if value < low*time.Second || value > high*time.Second || value%time.Second != 0 {
		v.err = unexpected(v.expected, strconv.FormatFloat(value.Seconds(), 'f', -1, 64))
	}
	return v
}

// span is a duration that is written like 30s.
func span(name string, value, low, high time.Duration) variable {
	bounds := short(low) + " to " + short(high)
	v := variable{name: name, expected: "a duration such as 30s or 5m, from " + bounds, bounds: bounds}
	if value < low || value > high {
		v.err = unexpected(v.expected, short(value))
	}
	return v
}

// short writes a duration as people do: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// choice is one of a few words.
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

// parse sets the fields from the environment, and returns what was expected of
// the variables that cannot be parsed.
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

// fieldOf finds Config's field of a variable.
func fieldOf(variable string) (field reflect.StructField) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if f.Tag.Get("env") == variable {
			return f
		}
	}
	return field
}

// parseErrors are what package env could not parse.
func parseErrors(err error) (list []env.ParseError) {
	all, _ := errors.AsType[env.AggregateError](err)
	for _, err := range all.Errors {
		if p, ok := errors.AsType[env.ParseError](err); ok {
			list = append(list, p)
		}
	}
	return list
}

// parsers teach package env two types. A secret's cannot fail, so that no error
// repeats the text.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[Secret]():        func(text string) (any, error) { return NewSecret(text), nil },
	reflect.TypeFor[time.Duration](): func(text string) (any, error) { return parseDuration(text) },
}

// parseDuration reads 30s, and a plain number as seconds.
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
