package rollout

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/strictjson"
)

// ParsePlan reads a plan and fills in its defaults. A field that is unknown,
// repeated, null, or of the wrong type is an error. ParsePlan returns all such
// errors, joined, or those of Validate if there are none.
func ParsePlan(b []byte) (Plan, error) {
	var p Plan
	err := p.UnmarshalJSON(b)
	if list, ok := errors.AsType[strictjson.Errors](err); ok {
		var errs planErrors
		for _, e := range list {
			errs.add(cmp.Or(e.Field, "plan"), "%s (line %d, column %d)", e.Message, e.Line, e.Column)
		}
		err = errors.Join(errs...)
	}
	if err != nil {
		return Plan{}, err
	}
	if err := p.Validate(); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// UnmarshalJSON implements json.Unmarshaler. It fills in the defaults and does not
// validate the plan.
func (p *Plan) UnmarshalJSON(b []byte) error {
	if len(b) > maxPlan {
		return &planError{"plan", fmt.Sprintf("%d bytes are too many, at most %d are allowed; put long lists of users into the flag", len(b), maxPlan)}
	}
	var given struct {
		Stages []struct {
			Name       string           `json:"name,omitzero"`
			Percentage flags.Percentage `json:"percentage,omitzero"`
			Users      flags.IDs        `json:"users,omitzero"`
			Hold       duration         `json:"hold,omitzero"`
			MinSamples int64            `json:"min_samples,omitzero"`
			Approval   bool             `json:"approval,omitzero"`
		} `json:"stages,omitzero"`
		OnBreach    OnBreach         `json:"on_breach,omitzero"`
		Limit       flags.Percentage `json:"limit,omitzero"`
		MinUsers    int              `json:"min_users,omitzero"`
		LatencyP95  duration         `json:"latency_p95,omitzero"`
		DatabaseP95 duration         `json:"database_p95,omitzero"`
		Notice      string           `json:"notice,omitzero"`
	}
	if err := strictjson.Unmarshal(b, &given); err != nil {
		return err
	}
	*p = Plan{OnBreach: given.OnBreach, Limit: given.Limit, MinUsers: given.MinUsers, LatencyP95: time.Duration(given.LatencyP95),
		DatabaseP95: time.Duration(given.DatabaseP95), Notice: given.Notice}.withDefaults()
	for _, s := range given.Stages {
		p.Stages = append(p.Stages, Stage{s.Name, s.Percentage, s.Users, time.Duration(s.Hold), s.MinSamples, s.Approval})
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (p Plan) MarshalJSON() ([]byte, error) {
	type plain Plan
	stages := p.Stages
	if stages == nil {
		stages = []Stage{}
	}
	return json.Marshal(struct {
		plain
		Stages      []Stage  `json:"stages"`
		LatencyP95  duration `json:"latency_p95"`
		DatabaseP95 duration `json:"database_p95"`
	}{plain(p), stages, duration(p.LatencyP95), duration(p.DatabaseP95)})
}

// MarshalJSON implements json.Marshaler.
func (s Stage) MarshalJSON() ([]byte, error) {
	type plain Stage
	return json.Marshal(struct {
		plain
		Hold duration `json:"hold"`
	}{plain(s), duration(s.Hold)})
}

// duration is a time.Duration that is a string in JSON.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%.40q is not a duration such as \"24h\" or \"90s\"", b)
	}
	*d = duration(v)
	return nil
}
