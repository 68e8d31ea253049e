package console

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// status is the answer of GET /rollouts/{name}.
type status struct{ rollout.Status }

// Left returns for how long the stage must still be watched.
func (r status) Left() time.Duration {
	return time.Duration(max(r.HoldSeconds-r.WatchedSeconds, 0) * float64(time.Second))
}

// Distance describes how far the error rate is from the limit.
func (r status) Distance() string {
	switch d := 100 * (r.limit() - rateOf(r.Evidence.Exposed)); {
	case math.IsNaN(d):
		return "no requests yet"
	case d < 0:
		return fmt.Sprintf("%.1f points over", -d)
	default:
		return fmt.Sprintf("%.1f points left", d)
	}
}

// IsOver reports whether more requests fail than the limit allows.
func (r status) IsOver() bool { return rateOf(r.Evidence.Exposed) > r.limit() }

// limit returns the plan's limit as a share.
func (r status) limit() float64 { return float64(r.Plan.Limit) / float64(100*flags.Percent) }

// HasBreached reports whether failures above the limit stopped the rollout.
func (r status) HasBreached() bool { return r.Reason == "breach" }

// BreachText says what a breach has led to, or is empty if there was none.
func (r status) BreachText() string {
	switch {
	case !r.HasBreached():
		return ""
	case r.State == rollout.StateRolledBack:
		return "The rollout was rolled back automatically: the feature is off."
	case r.Plan.OnBreach == rollout.BreachPause:
		return "The rollout was paused automatically. The users of this stage still have the feature."
	default:
		return "The rollout was rolled back automatically to this stage, and is paused."
	}
}

func (c *console) rolloutPath(rest string) string {
	return "/rollouts/" + url.PathEscape(c.opts.Flag) + rest
}

// byTheMinute is the longest span that the API returns minute by minute. In a
// longer one a point covers several minutes, and a rollout's first half hour would
// be one point.
const byTheMinute = 5 * time.Hour

// waitTexts describe what a running stage waits for, by the API's name of it.
var waitTexts = map[string]string{
	"samples":  "It waits for more requests.",
	"approval": "It waits for an operator's approval.",
	"outage":   "It holds: the same requests would fail without the feature.",
	"breach":   "It holds: too many requests fail.",
	"users":    "It holds: too few users are affected to decide.",
}

// WaitText describes what a running stage waits for besides time.
func (r status) WaitText() string { return waitTexts[r.Waiting] }

// rolloutActions are the operators' actions on a rollout and their effects.
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
		Rollout status
		Span    time.Duration // of the chart
		Points  []rollout.Point
		Chart   any
		Actions any
		Missing []string // until the stage can pass
		Failing int64    // users with failed requests in the last minute of the series
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
			Points []rollout.Point `json:"points"`
		}
		d.Span = 72 * time.Hour
		if c.opts.Now().Sub(d.Rollout.BeganAt) < byTheMinute {
			d.Span = byTheMinute
		}
		if _, err := optional(c.admin.get(r, c.rolloutPath("/series"), url.Values{"since": {d.Span.String()}}, &series)); err != nil {
			return err
		}
		d.Points, d.Chart = series.Points, errorChart(series.Points, d.Rollout.limit())
		if err := c.admin.get(r, c.rolloutPath("/events"), url.Values{"limit": {"50"}}, &d.History); err != nil {
			return err
		}
		if err := c.admin.get(r, "/feedback", url.Values{"limit": {"3"}, "open": {"true"}, "stage": {d.Rollout.StageName}}, &d.Feedback); err != nil {
			return err
		}
		d.Missing = missing(d.Rollout)
		if n := len(d.Points); n > 0 {
			d.Failing = d.Points[n-1].FailingUsers
		}
	}
	d.Actions = rolloutActions
	c.pages.render(w, http.StatusOK, "rollout.html", c.view(r, "Rollout", d))
	return nil
}

// missing lists what a running stage still needs before it passes.
func missing(r status) []string {
	if r.State != "running" || r.Stage >= len(r.Plan.Stages) {
		return nil
	}
	var list []string
	stage := r.Plan.Stages[r.Stage]
	if left := r.Left(); left > 0 {
		list = append(list, formatDuration(left)+" of its hold time")
	}
	if n := stage.MinSamples - r.Evidence.Exposed.Outcomes; n > 0 {
		list = append(list, formatCount(n)+" more requests")
	}
	if stage.Approval {
		list = append(list, "an operator's approval")
	}
	return list
}

// ButtonStyle returns the style of an action's button. The usual next action is
// primary. Actions that ignore the evidence are marked as a risk. After a breach no
// action is primary: the causes come first.
func (r status) ButtonStyle(action string) string {
	usual := "pause"
	switch {
	case r.State == "running" && r.Waiting == "approval":
		usual = "approve"
	case r.HasBreached():
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

// IsPossible reports whether the rollout allows an action in its state.
func (r status) IsPossible(action string) bool {
	return slices.Contains(r.Possible, rollout.Action(action))
}

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
