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

// Options of a Catalog. The zero value works.
type Options struct {
	File string // path of the file; empty means "model_mappings.json"

	// UnknownIsDefault makes a name that resembles no other resolve to the
	// default (AUTOMATION_UNKNOWN_MODEL=default). A name with suggestions stays
	// an error.
	UnknownIsDefault bool

	FeedURL string // of active_models.json, http or https; empty means no feed
	// HTTPClient reads the feed; nil means http.DefaultClient. Redirects to
	// another host are errors, whatever its CheckRedirect.
	HTTPClient *http.Client

	// Registry returns the models of the node's registry; nil means no registry.
	// Of each model it sets ID, and Type and Created, which are used if the feed
	// does not state them.
	Registry func(context.Context) ([]Model, error)

	// FileInterval and FeedInterval are the pauses between two polls of Run, plus
	// or minus 10 %. FeedInterval is for the feed and the registry; after a
	// failure, a tenth of it.
	FileInterval time.Duration // 0 means 5 s
	FeedInterval time.Duration // 0 means 300 s

	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil discards
}

// withDefaults validates the options and sets the defaults of those that are not
// set.
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
