// Package openfeature is an OpenFeature provider that decides by a [flags.View]:
// that of a watcher, or that of an automation module.
//
//	err := openfeature.SetProviderAndWait(flagsopenfeature.New(watcher.View))
//	on, err := openfeature.NewDefaultClient().BooleanValue(ctx, "automation", false,
//		openfeature.NewEvaluationContext(userID, nil))
//
// The targeting key is the user's id. Flags are boolean, with the variants "on"
// and "off". FlagMetadata has the flag's "version" and, if it decided, the user's
// "bucket".
//
//	decision                             reason
//	master switch off, flag not enabled  DISABLED; the value is false whatever the default
//	user in a list                       TARGETING_MATCH
//	by percentage                        SPLIT
//	by a percentage of 0 or 100          STATIC, or DEFAULT if the flag lists users
//
// Errors come with the caller's default: PROVIDER_NOT_READY before any flags were
// read, FLAG_NOT_FOUND, TARGETING_KEY_MISSING, INVALID_CONTEXT for a targeting
// key that is not a string, and TYPE_MISMATCH for types other than boolean.
//
// Events are PROVIDER_CONFIGURATION_CHANGED with the names of the changed flags;
// PROVIDER_STALE when a pass of the watcher fails and the last snapshot stays in
// use; and PROVIDER_READY when the flags can be read again.
package openfeature

import (
	"context"
	"fmt"
	"sync"

	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// provider decides by a View, whose watcher the host runs.
type provider struct {
	view    *flags.View
	events  chan of.Event
	mu      sync.Mutex         // guards the fields below
	stop    context.CancelFunc // nil while run does not run
	stopped chan struct{}      // closed when run has ended
}

var (
	_ of.FeatureProvider          = (*provider)(nil)
	_ of.ContextAwareStateHandler = (*provider)(nil)
	_ of.EventHandler             = (*provider)(nil)
)

// New returns a provider that decides by v. It also implements
// ContextAwareStateHandler and EventHandler, and does nothing until OpenFeature
// starts it.
func New(v *flags.View) of.FeatureProvider {
	return &provider{view: v, events: make(chan of.Event)}
}

// Metadata returns the provider's name.
func (p *provider) Metadata() of.Metadata { return of.Metadata{Name: "gateway-automation/flags"} }

// Hooks returns nil: the provider has no hooks.
func (p *provider) Hooks() []of.Hook { return nil }

// BooleanEvaluation decides about the user that the targeting key names.
func (p *provider) BooleanEvaluation(_ context.Context, flag string, defaultValue bool, evalCtx of.FlattenedContext) of.BoolResolutionDetail {
	f := p.view.Flag(flag) // only for the reason
	d, err := p.decide(flag, evalCtx)
	if err != (of.ResolutionError{}) {
		return of.BoolResolutionDetail{Value: defaultValue, ProviderResolutionDetail: failed(err)}
	}
	variant := "off"
	if d.On {
		variant = "on"
	}
	return of.BoolResolutionDetail{Value: d.On, ProviderResolutionDetail: of.ProviderResolutionDetail{
		Reason:       reason(f, d.Reason),
		Variant:      variant,
		FlagMetadata: metadata(d),
	}}
}

func metadata(d flags.Decision) of.FlagMetadata {
	m := of.FlagMetadata{"version": d.Version}
	if d.Bucket >= 0 {
		m["bucket"] = int64(d.Bucket)
	}
	return m
}

func failed(err of.ResolutionError) of.ProviderResolutionDetail {
	return of.ProviderResolutionDetail{ResolutionError: err, Reason: of.ErrorReason}
}

func (p *provider) decide(flag string, evalCtx of.FlattenedContext) (flags.Decision, of.ResolutionError) {
	key, hasKey := evalCtx[of.TargetingKey]
	user, isString := key.(string)
	var d flags.Decision
	switch {
	case user != "":
		d = p.view.Decide(flag, user)
	case p.isOff(flag):
		d = p.view.Decide(flag, "") // off for everybody: no user is needed
	case hasKey && !isString:
		return d, of.NewInvalidContextResolutionError(fmt.Sprintf("the targeting key must be the user's id, a string, not a %T", key))
	case p.view.Flag(flag) != nil:
		return d, of.NewTargetingKeyMissingResolutionError("the targeting key must be the user's id")
	}
	if d.Reason == flags.ReasonMissing {
		return d, p.missing(flag)
	}
	return d, of.ResolutionError{}
}

// isOff reports whether the flag is off for everybody.
func (p *provider) isOff(flag string) bool {
	reason := p.view.Explain(flag, "").Reason
	return reason == flags.ReasonMasterOff || reason == flags.ReasonDisabled
}

// missing returns the error for a flag that the view does not have.
func (p *provider) missing(flag string) of.ResolutionError {
	if !p.view.Health().Loaded {
		return of.NewProviderNotReadyResolutionError("no flags have been read yet")
	}
	return of.NewFlagNotFoundResolutionError(fmt.Sprintf("no flag is named %.100q", flag))
}

// reason returns OpenFeature's reason for a decision about f. f is nil if the flag
// was created between the look-up of f and the decision.
func reason(f *flags.Flag, r flags.Reason) of.Reason {
	switch r {
	case flags.ReasonMasterOff, flags.ReasonDisabled:
		return of.DisabledReason
	case flags.ReasonUserEnabled, flags.ReasonUserDisabled:
		return of.TargetingMatchReason
	}
	switch {
	case f == nil || 0 < f.Percentage && f.Percentage < 100*flags.Percent:
		return of.SplitReason
	case f.EnabledUserIDs.Len()+f.DisabledUserIDs.Len() > 0:
		return of.DefaultReason
	}
	return of.StaticReason
}

// notBoolean returns the result for a type other than boolean: an error.
func notBoolean[T any](p *provider, flag string, defaultValue T) of.GenericResolutionDetail[T] {
	err := of.NewTypeMismatchResolutionError("all flags are boolean")
	if p.view.Flag(flag) == nil {
		err = p.missing(flag)
	}
	return of.GenericResolutionDetail[T]{Value: defaultValue, ProviderResolutionDetail: failed(err)}
}

// StringEvaluation is an error: all flags are boolean.
func (p *provider) StringEvaluation(_ context.Context, flag string, defaultValue string, _ of.FlattenedContext) of.StringResolutionDetail {
	return notBoolean(p, flag, defaultValue)
}

// FloatEvaluation is an error: all flags are boolean.
func (p *provider) FloatEvaluation(_ context.Context, flag string, defaultValue float64, _ of.FlattenedContext) of.FloatResolutionDetail {
	return notBoolean(p, flag, defaultValue)
}

// IntEvaluation is an error: all flags are boolean.
func (p *provider) IntEvaluation(_ context.Context, flag string, defaultValue int64, _ of.FlattenedContext) of.IntResolutionDetail {
	return notBoolean(p, flag, defaultValue)
}

// ObjectEvaluation is an error: all flags are boolean.
func (p *provider) ObjectEvaluation(_ context.Context, flag string, defaultValue any, _ of.FlattenedContext) of.InterfaceResolutionDetail {
	return notBoolean(p, flag, defaultValue)
}
