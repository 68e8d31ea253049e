package rollout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ParsePlan reads a plan, with its defaults filled in. It takes nothing that
// is not exactly meant: a field that is unknown, there twice, null, or of the
// wrong type is a fault, and all faults are named, those of Validate included.
func ParsePlan(b []byte) (Plan, error) {
	var p Plan
	if err := p.UnmarshalJSON(b); err != nil {
		return Plan{}, err
	}
	if err := p.Validate(); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// UnmarshalJSON implements json.Unmarshaler: as ParsePlan, but without what
// Validate checks.
func (p *Plan) UnmarshalJSON(b []byte) error {
	if len(b) > maxPlan {
		return &PlanError{"plan", fmt.Sprintf("%d bytes are too many, at most %d are allowed; long lists of users belong into the flag", len(b), maxPlan)}
	}
	var f faults
	var stages []json.RawMessage
	got := Plan{}
	readObject(b, "", map[string]any{
		"stages": &stages, "on_breach": &got.OnBreach, "policy": &got.Policy, "limit": &got.Limit,
		"latency_p95": (*duration)(&got.LatencyP95), "database_p95": (*duration)(&got.DatabaseP95), "notice": &got.Notice,
	}, &f)
	for i, raw := range stages {
		var s Stage
		readObject(raw, fmt.Sprintf("stages[%d]", i), map[string]any{
			"name": &s.Name, "percentage": &s.Percentage, "users": &s.Users, "hold": (*duration)(&s.Hold),
			"min_samples": &s.MinSamples, "approval": &s.Approval,
		}, &f)
		got.Stages = append(got.Stages, s)
	}
	if f != nil {
		return errors.Join(f...)
	}
	*p = got.withDefaults()
	return nil
}

// readObject reads an object into the fields given by name.
func readObject(b []byte, at string, fields map[string]any, f *faults) {
	where, field := "plan", func(name string) string { return name }
	if at != "" {
		where, field = at, func(name string) string { return at + "." + name }
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		f.add(where, "an object is wanted")
		return
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		name, _ := key.(string)
		var raw json.RawMessage
		if err == nil {
			err = d.Decode(&raw)
		}
		if err != nil {
			f.add(where, "no valid JSON: %v", err)
			return
		}
		into, known := fields[name]
		switch {
		case !known:
			f.add(field(fmt.Sprintf("%.40s", name)), "there is no such field")
		case seen[name]:
			f.add(field(name), "is there twice")
		case string(raw) == "null":
			f.add(field(name), "null is no value; leave the field out for its default")
		default:
			if err := json.Unmarshal(raw, into); err != nil {
				f.add(field(name), "%s", complaint(err))
			}
		}
		seen[name] = true
	}
	if _, err := d.Token(); err != nil {
		f.add(where, "no valid JSON: %v", err)
	} else if _, err := d.Token(); !errors.Is(err, io.EOF) {
		f.add(where, "something follows after its end")
	}
}

func complaint(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("a %v is wanted, not a %s", e.Type.Kind(), e.Value)
	}
	return err.Error()
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

// duration is a time.Duration that is a text in JSON.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalJSON(b []byte) error {
	v, err := time.ParseDuration(strings.Trim(string(b), `"`))
	if err != nil || b[0] != '"' {
		return fmt.Errorf("%.40s is no duration such as \"24h\" or \"90s\"", b)
	}
	*d = duration(v)
	return nil
}
