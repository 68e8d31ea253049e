package console

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/adminapi"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// overview is the answer of GET /overview.
type overview struct {
	adminapi.Overview
	Components map[string]automation.Component `json:"components"`
	Replicas   []process                       `json:"replicas"`
}

// ChatCounts returns the counts of the last five minutes' requests.
func (f overview) ChatCounts() rollout.Counts {
	return rollout.Counts{Outcomes: f.Chats.Served + f.Chats.Failed, Failures: f.Chats.Failed}
}

// Overhead formats the 95th percentile of the time that automation added to
// requests.
func (f overview) Overhead() string {
	switch ms := f.Chats.OverheadP95; {
	case ms == nil:
		return ""
	case *ms < 10:
		return fmt.Sprintf("%.1f ms", *ms)
	case *ms < 1000:
		return fmt.Sprintf("%.0f ms", *ms)
	default:
		return fmt.Sprintf("%.1f s", *ms/1000)
	}
}

// maxReplicas is the maximum number of replicas that the page lists.
const maxReplicas = 50

// Listed returns the replicas that the page lists, those with problems first.
func (f overview) Listed() []process {
	list := slices.Clone(f.Replicas)
	slices.SortStableFunc(list, func(a, b process) int { return cmp.Compare(b.severity(), a.severity()) })
	return list[:min(len(list), maxReplicas)]
}

// Hidden returns how many replicas are not listed.
func (f overview) Hidden() int { return max(len(f.Replicas)-maxReplicas, 0) }

// Unhealthy returns how many replicas have a problem.
func (f overview) Unhealthy() (n int) {
	for _, r := range f.Replicas {
		if r.severity() > 0 {
			n++
		}
	}
	return n
}

// process is a replica, as it last reported.
type process struct{ replica.Replica }

// severity orders replicas by how much is wrong with them.
func (r process) severity() int {
	n := 2 * len(r.Problems)
	if !r.FeatureEnabled {
		n++
	}
	return n
}

// FlagsAge returns the age of the replica's flags at its last report.
func (r process) FlagsAge() time.Duration { return max(r.SeenAt.Sub(r.FlagsAt), 0) }

func (c *console) overview(w http.ResponseWriter, r *request) error {
	var d struct {
		Fleet      overview
		HasRollout bool
		Rollout    status
		Points     []rollout.Point
		Chart      any
		Changes    struct {
			Events []event `json:"events"`
		}
		Feedback feedbackList
	}
	var series struct {
		Points []rollout.Point `json:"points"`
	}
	if err := c.admin.get(r, "/overview", nil, &d.Fleet); err != nil {
		return err
	}
	if c.opts.Flag != automation.FlagName { // the API's overview has the module's own flag only
		var f flags.Flag
		if err := c.admin.get(r, c.flagPath(""), nil, &f); err != nil {
			return err
		}
		d.Fleet.Flag = adminapi.SummarizeFlag(&f)
	}
	found, err := optional(c.admin.get(r, c.rolloutPath(""), nil, &d.Rollout))
	if err != nil {
		return err
	}
	if d.HasRollout = found; found {
		if _, err := optional(c.admin.get(r, c.rolloutPath("/series"), url.Values{"since": {byTheMinute.String()}}, &series)); err != nil {
			return err
		}
		d.Points, d.Chart = series.Points, errorChart(series.Points, d.Rollout.limit())
	}
	if err := c.admin.get(r, c.flagPath("/events"), url.Values{"limit": {"5"}}, &d.Changes); err != nil {
		return err
	}
	if err := c.admin.get(r, "/feedback", url.Values{"limit": {"5"}, "open": {"true"}}, &d.Feedback); err != nil {
		return err
	}
	c.pages.render(w, http.StatusOK, "overview.html", c.view(r, "Overview", d))
	return nil
}
