package console

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// stage is one of a rollout's plan.
type stage struct {
	Name       string  `json:"name"`
	Percentage float64 `json:"percentage"`
	Hold       string  `json:"hold"` // such as 24h0m0s
	MinSamples int64   `json:"min_samples"`
	Approval   bool    `json:"approval"`
}

// HoldTime is Hold as people write it.
func (s stage) HoldTime() string {
	d, err := time.ParseDuration(s.Hold)
	if err != nil {
		return s.Hold
	}
	return formatDuration(d)
}

// rollout is GET /rollouts/{name}.
type rollout struct {
	Name           string    `json:"name"`
	State          string    `json:"state"`
	Reason         string    `json:"reason"`
	Waiting        string    `json:"waiting"`
	Detail         string    `json:"detail"`
	Stage          int       `json:"stage"`
	StageName      string    `json:"stage_name"`
	Percentage     float64   `json:"percentage"`
	WatchedSeconds float64   `json:"watched_seconds"`
	HoldSeconds    float64   `json:"hold_seconds"`
	BeganAt        time.Time `json:"began_at"`
	EnteredAt      time.Time `json:"entered_at"`
	Possible       []string  `json:"possible"`
	Evidence       struct {
		Exposed counts `json:"exposed"`
		Control counts `json:"control"`
	} `json:"evidence"`
	Plan struct {
		Limit    float64 `json:"limit"` // per cent
		MinUsers int64   `json:"min_users"`
		Stages   []stage `json:"stages"`
	} `json:"plan"`
}

// Left is how long the stage must still be watched.
func (r rollout) Left() time.Duration {
	return time.Duration(max(r.HoldSeconds-r.WatchedSeconds, 0) * float64(time.Second))
}

// Distance is how far the error rate is from the limit, for people.
func (r rollout) Distance() string {
	switch d := r.Plan.Limit - 100*r.Evidence.Exposed.Rate(); {
	case math.IsNaN(d):
		return "no requests yet"
	case d < 0:
		return fmt.Sprintf("%.1f points over", -d)
	default:
		return fmt.Sprintf("%.1f points left", d)
	}
}

// IsOver reports whether more requests fail than the limit allows.
func (r rollout) IsOver() bool { return 100*r.Evidence.Exposed.Rate() > r.Plan.Limit }

// TakenBack reports whether the rollout went back or holds because of failures.
func (r rollout) TakenBack() bool { return r.Reason == "breach" }

func (c *console) rolloutPath(rest string) string {
	return "/rollouts/" + url.PathEscape(c.opts.Flag) + rest
}

// byTheMinute is the longest span of which the API has every minute; of a longer
// one a point covers several, and a rollout's first half hour would be one point.
const byTheMinute = 5 * time.Hour

// waiting says what a running stage waits for, by the API's word for it.
var waiting = map[string]string{
	"samples":  "It waits for more requests.",
	"approval": "It waits for an operator's approval.",
	"outage":   "It holds: what fails would fail without the feature as well.",
	"breach":   "It holds: too many requests fail.",
	"users":    "It holds: requests fail, of too few users for a verdict.",
}

// Waits is what a running stage waits for besides time, for people.
func (r rollout) Waits() string { return waiting[r.Waiting] }

// rolloutActions are the steps of a rollout with what they do.
var rolloutActions = []struct{ Name, Label, Effect string }{
	{"approve", "Approve", "lets a stage that waits for approval pass"},
	{"pause", "Pause", "stops the advance; the flag stays as it is"},
	{"resume", "Resume", "continues the advance"},
	{"skip", "Skip", "goes to the next stage without waiting"},
	{"promote", "Promote", "goes to 100 % at once"},
	{"abort", "Abort", "ends the rollout and switches the feature off"},
	{"restart", "Restart", "begins again at the first stage"},
}

func (c *console) rollout(w http.ResponseWriter, r *request) error {
	var d struct {
		Found   bool
		Rollout rollout
		Span    time.Duration // of the chart
		Points  []point
		Chart   any
		Actions any
		Missing []string // until the stage can pass
		Failing int64    // users whose requests failed in the last minute that was counted
		History struct {
			Events []event `json:"events"`
		}
		Feedback feedbackList // of this stage
	}
	found, err := optional(c.admin.get(r, c.rolloutPath(""), nil, &d.Rollout))
	if err != nil {
		return err
	}
	if d.Found = found; found {
		var series struct {
			Points []point `json:"points"`
		}
		d.Span = 72 * time.Hour
		if c.opts.Now().Sub(d.Rollout.BeganAt) < byTheMinute {
			d.Span = byTheMinute
		}
		if _, err := optional(c.admin.get(r, c.rolloutPath("/series"), url.Values{"since": {d.Span.String()}}, &series)); err != nil {
			return err
		}
		d.Points, d.Chart = series.Points, errorChart(series.Points, d.Rollout.Plan.Limit/100)
		if err := c.admin.get(r, c.rolloutPath("/events"), url.Values{"limit": {"50"}}, &d.History); err != nil {
			return err
		}
		if err := c.admin.get(r, "/feedback", url.Values{"limit": {"3"}, "open": {"true"}, "stage": {d.Rollout.StageName}}, &d.Feedback); err != nil {
			return err
		}
		d.Missing = missing(d.Rollout)
		if n := len(d.Points); n > 0 {
			d.Failing = d.Points[n-1].Users
		}
	}
	d.Actions = rolloutActions
	c.pages.render(w, http.StatusOK, "rollout.html", c.view(r, "Rollout", d))
	return nil
}

// missing lists what a running stage still needs before it passes.
func missing(r rollout) []string {
	if r.State != "running" || r.Stage >= len(r.Plan.Stages) {
		return nil
	}
	var list []string
	now := r.Plan.Stages[r.Stage]
	if left := r.Left(); left > 0 {
		list = append(list, formatDuration(left)+" of its hold time")
	}
	if n := now.MinSamples - r.Evidence.Exposed.Outcomes; n > 0 {
		list = append(list, formatCount(n)+" more requests")
	}
	if now.Approval {
		list = append(list, "an operator's approval")
	}
	return list
}

// Button is how much a step stands out: what stops a rollout, or continues one
// that nothing took back, is at hand, and what passes over evidence is marked.
func (r rollout) Button(action string) string {
	usual := "pause"
	switch {
	case r.State == "running" && r.Waiting == "approval":
		usual = "approve"
	case r.TakenBack():
		usual = ""
	case r.State != "running":
		usual = "resume"
	}
	switch action {
	case usual:
		return "primary"
	case "abort":
		return "danger"
	case "skip", "promote":
		return "risk"
	}
	return ""
}

// Legal reports whether the rollout allows an action now.
func (r rollout) Legal(action string) bool { return slices.Contains(r.Possible, action) }

func (c *console) startRollout(r *request) (target, message string, err error) {
	return "rollout", "The rollout has started.", c.admin.send(r, http.MethodPost, c.rolloutPath(""), nil, map[string]any{}, nil)
}

func (c *console) actOnRollout(r *request) (target, message string, err error) {
	action := r.PostFormValue("action")
	if !slices.ContainsFunc(rolloutActions, func(a struct{ Name, Label, Effect string }) bool { return a.Name == action }) {
		return "rollout", "", &statusError{http.StatusBadRequest, "Unknown action."}
	}
	dry := r.PostFormValue("dry_run") != ""
	var e event
	if err := c.admin.send(r, http.MethodPost, c.rolloutPath("/"+action), nil, map[string]any{"dry_run": dry}, &e); err != nil {
		return "rollout", "", err
	}
	message = fmt.Sprintf("%s: from %s to %s, stage %s. %s", action, e.From, e.To, e.StageName, e.Detail)
	if dry {
		message = "Dry run, nothing was changed. " + message
	}
	return "rollout", message, nil
}
