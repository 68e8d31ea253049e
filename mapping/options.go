package mapping

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/httpurl"
)

// Options say where the models come from. The zero value works.
type Options struct {
	File string // model_mappings.json; default "model_mappings.json"

	// UnknownIsDefault lets the default serve a name that resembles no other
	// (AUTOMATION_UNKNOWN_MODEL=default). A near miss stays an error.
	UnknownIsDefault bool

	FeedURL    string       // of active_models.json, http or https; empty: no feed
	HTTPClient *http.Client // for the feed; default http.DefaultClient. It follows no redirect to another host

	// Registry lists the models of the node's registry by ID, with the Type and
	// the time Created that hold where the feed states none; nil: none.
	Registry func(context.Context) ([]Model, error)

	// How often Run looks, each time up to 10 % sooner or later.
	FileInterval time.Duration // default 5 s
	FeedInterval time.Duration // of the feed and the registry; default 300 s; a tenth of it after a failure

	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // nil discards
}

// withDefaults checks what is set and fills in what is not.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.FeedURL != "" {
		if _, err := httpurl.Parse(o.FeedURL); err != nil {
			errs = append(errs, fmt.Errorf("mapping: FeedURL: %w", err))
		}
	}
	for _, interval := range []struct {
		name         string
		value        *time.Duration
		defaultValue time.Duration
	}{
		{"FileInterval", &o.FileInterval, 5 * time.Second},
		{"FeedInterval", &o.FeedInterval, 300 * time.Second},
	} {
		switch {
		case *interval.value < 0:
			errs = append(errs, fmt.Errorf("mapping: %s(%v): must not be negative", interval.name, *interval.value))
		case *interval.value == 0:
			*interval.value = interval.defaultValue
		}
	}
	if o.File == "" {
		o.File = "model_mappings.json"
	}
	if o.HTTPClient == nil {
		o.HTTPClient = http.DefaultClient
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, errors.Join(errs...)
}
