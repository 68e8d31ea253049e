package automation

import (
	"context"
	"log/slog"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// recordChat is called with how each request through Sessions or Forward ended.
func (m *Module) recordChat(ctx context.Context, o outcome.Outcome) {
	m.recent.add(m.now(), o)
	m.observer.Chat(o)
	switch o.Result() {
	case outcome.Served:
		m.requests.Add(false, false)
		m.figures.Served(o.Overhead)
	case outcome.Failed:
		m.requests.Add(true, o.Cause == outcome.Node)
		m.figures.Failed(string(o.Cause))
	}
	m.count("chat", o)
	m.record(ctx, o)
}

// recordAPI is called with how each request to the APIs ended.
func (m *Module) recordAPI(ctx context.Context, o outcome.Outcome) {
	m.observer.API(o)
	if o.UserID != "" { // requests to the operators' API have no user
		m.count("api", o)
	}
	m.record(ctx, o)
}

// count adds a request that automation acted on to the activity that this replica
// reports.
func (m *Module) count(kind string, o outcome.Outcome) {
	if o.Skipped || o.Cause == outcome.Off {
		return
	}
	a := replica.Activity{Kind: kind, Cause: string(o.Cause), Evidence: string(policy.Of(o.Cause).Evidence), Requests: 1, LatencyUS: o.Latency.Microseconds(), DatabaseUS: o.DatabaseTime.Microseconds()}
	if o.Cause == outcome.None && o.Latency > m.defaultPlan.LatencyP95 {
		a.Slow = 1
	}
	if o.DatabaseTime > m.defaultPlan.DatabaseP95 {
		a.DatabaseSlow = 1
	}
	m.requests.AddActivity(a)
}

// noteFailure notes the cause and the code of an error that a user got, for the
// operators' page about that user. It keeps nothing that the user sent.
func (m *Module) noteFailure(o outcome.Outcome) {
	isError := o.Result() == outcome.Failed || o.Result() == outcome.Refused
	if !isError || o.UserID == "" || o.Cause == outcome.Off {
		return
	}
	at := m.now()
	m.failures.Add(replica.Failure{UserID: o.UserID, Cause: string(o.Cause), Code: string(o.Code), BeganAt: at, FailedAt: at, Requests: 1})
}

// record adds an outcome to the user's failures, to the rollout's evidence and to
// the log. Package policy decides the kind of evidence and the level of the log line.
func (m *Module) record(ctx context.Context, o outcome.Outcome) {
	m.noteFailure(o)
	if result, ok := rolloutOutcomes[policy.EvidenceOf(o)]; ok {
		m.recorder.Record(rollout.Sample{Arm: rolloutArms[o.Arm], Outcome: result, UserID: o.UserID, Latency: o.Latency, DatabaseTime: o.DatabaseTime})
	}
	level := policy.Of(o.Cause).Level
	if !m.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("cause", string(o.Cause)), slog.String("code", string(o.Code)), slog.String("result", string(o.Result())),
		slog.String("route", o.Route), slog.Int("status", o.Status), slog.Duration("took", o.Latency), slog.String("request_id", o.RequestID)}
	if o.Err != nil && o.Cause != outcome.Client { // a client's error may repeat what the client sent
		attrs = append(attrs, slog.Any("error", o.Err))
	}
	m.log.LogAttrs(ctx, level, "request ended", attrs...)
}

var rolloutArms = map[string]rollout.Arm{rollout.ArmExposed.String(): rollout.ArmExposed, rollout.ArmControl.String(): rollout.ArmControl}

// rolloutOutcomes converts the evidence of a request to a rollout's outcome. A request
// without evidence has no entry.
var rolloutOutcomes = map[policy.Evidence]rollout.Outcome{
	policy.EvidenceSuccess:  rollout.OutcomeSuccess,
	policy.EvidenceFailure:  rollout.OutcomeFailure,
	policy.EvidenceCompared: rollout.OutcomeProviderFailure,
	policy.EvidenceShared:   rollout.OutcomeSharedFailure,
	policy.EvidenceNone:     rollout.OutcomeIgnored,
}
