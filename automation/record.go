package automation

import (
	"context"
	"log/slog"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

// recordChat is called with how each request through Sessions or Forward ended.
func (m *Module) recordChat(ctx context.Context, o outcome.Outcome) {
	m.recent.add(m.now(), o)
	m.observer.Chat(o)
	if r := o.Result(); r == outcome.Served || r == outcome.Failed {
		m.requests.Add(r == outcome.Failed, o.Cause == outcome.Node)
	}
	m.record(ctx, o)
}

// recordAPI is called with how each request to the APIs ended.
func (m *Module) recordAPI(ctx context.Context, o outcome.Outcome) {
	m.observer.API(o)
	m.record(ctx, o)
}

// record gives an outcome to the rollout and to the log. The causes' table
// decides what it is to both.
func (m *Module) record(ctx context.Context, o outcome.Outcome) {
	if result, ok := rolloutOutcomes[o.Evidence()]; ok {
		m.recorder.Record(rollout.Sample{Arm: rolloutArms[o.Arm], Outcome: result, UserID: o.UserID, Latency: o.Latency, DatabaseTime: o.DatabaseTime})
	}
	level := o.Cause.Policy().Level
	if !m.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("cause", string(o.Cause)), slog.String("code", string(o.Code)), slog.String("result", string(o.Result())),
		slog.String("route", o.Route), slog.Int("status", o.Status), slog.Duration("took", o.Latency), slog.String("request_id", o.RequestID)}
	if o.Err != nil && o.Cause != outcome.Client { // it may repeat what the client sent
		attrs = append(attrs, slog.Any("error", o.Err))
	}
	m.log.LogAttrs(ctx, level, "request ended", attrs...)
}

var rolloutArms = map[outcome.Arm]rollout.Arm{outcome.ArmExposed: rollout.ArmExposed, outcome.ArmControl: rollout.ArmControl}

// rolloutOutcomes has what requests on either arm are to the rollout.
var rolloutOutcomes = map[outcome.Evidence]rollout.Outcome{
	outcome.EvidenceSuccess:  rollout.OutcomeSuccess,
	outcome.EvidenceFailure:  rollout.OutcomeFailure,
	outcome.EvidenceCompared: rollout.OutcomeProviderFailure,
	outcome.EvidenceShared:   rollout.OutcomeSharedFailure,
	outcome.EvidenceNone:     rollout.OutcomeIgnored,
}
