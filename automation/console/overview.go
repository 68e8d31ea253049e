package console

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// flag is GET /flags/{name}.
type flag struct {
	Name            string    `json:"feature_name"`
	Enabled         bool      `json:"enabled"`
	EnabledUserIDs  []string  `json:"enabled_user_ids"`
	DisabledUserIDs []string  `json:"disabled_user_ids"`
	Percentage      float64   `json:"rollout_percentage"`
	Notice          string    `json:"notice"`
	Version         int64     `json:"version"`
	UpdatedAt       time.Time `json:"updated_at"`
	UpdatedBy       string    `json:"updated_by"`
}

// flagSummary is a flag without its lists.
type flagSummary struct {
	Enabled       bool      `json:"enabled"`
	EnabledUsers  int       `json:"enabled_users"`
	DisabledUsers int       `json:"disabled_users"`
	Percentage    float64   `json:"rollout_percentage"`
	Notice        string    `json:"notice"`
	Version       int64     `json:"version"`
	UpdatedAt     time.Time `json:"updated_at"`
	UpdatedBy     string    `json:"updated_by"`
}

// fleet is GET /overview.
type fleet struct {
	MasterOn   bool                 `json:"master_on"` // of the replica that answers
	Flag       *flagSummary         `json:"flag"`      // likewise; nil where it has not read it
	Components map[string]component `json:"components"`
	Sessions   map[string]int64     `json:"sessions"` // by state
	OptedIn    int64                `json:"opted_in"`
	OptedOut   int64                `json:"opted_out"`
	SeenUsers  int64                `json:"users_last_week"` // who used a session in the last seven days
	CountedAt  time.Time            `json:"counted_at"`
	Replicas   []replica            `json:"replicas"`
	Chats      struct {
		Served      int64            `json:"served"`
		Failed      int64            `json:"failed"`
		Causes      map[string]int64 `json:"causes"`
		OverheadP95 *float64         `json:"overhead_p95_ms"`
	} `json:"chats"`
	Opens []struct {
		Purpose string `json:"purpose"`
		Opened  int64  `json:"opened"`
		Failed  int64  `json:"failed"`
		Pending int64  `json:"pending"`
	} `json:"opens"`
	Alerts []struct {
		Name     string `json:"name"`
		Severity string `json:"severity"`
		Summary  string `json:"summary"`
	} `json:"alerts"`
}

// ChatCounts are the requests of the last five minutes.
func (f fleet) ChatCounts() counts {
	return counts{Outcomes: f.Chats.Served + f.Chats.Failed, Failures: f.Chats.Failed}
}

// Overhead is what automation added to 95 of 100 requests at most, for people.
func (f fleet) Overhead() string {
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

// maxReplicas is the most replicas that the page lists.
const maxReplicas = 50

// Listed are the replicas that the page lists: those with something wrong first.
func (f fleet) Listed() []replica {
	list := slices.Clone(f.Replicas)
	slices.SortStableFunc(list, func(a, b replica) int { return cmp.Compare(b.severity(), a.severity()) })
	return list[:min(len(list), maxReplicas)]
}

// Hidden is how many replicas are not listed, and well.
func (f fleet) Hidden() int { return max(len(f.Replicas)-maxReplicas, 0) }

// Unwell is how many replicas have something wrong.
func (f fleet) Unwell() (n int) {
	for _, r := range f.Replicas {
		if r.severity() > 0 {
			n++
		}
	}
	return n
}

type component struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

type replica struct {
	Host      string            `json:"host"`
	Version   string            `json:"version"`
	StartedAt time.Time         `json:"started_at"`
	SeenAt    time.Time         `json:"seen_at"`
	MasterOn  bool              `json:"master_on"`
	FlagsAt   time.Time         `json:"flags_at"` // its last good look at the flags
	Problems  map[string]string `json:"problems"` // what does not work, by component
	Outcomes  int64             `json:"outcomes"` // in its last minute
	Failures  int64             `json:"failures"`
}

// severity orders replicas by how much is wrong with them.
func (r replica) severity() int {
	n := 2 * len(r.Problems)
	if !r.MasterOn {
		n++
	}
	return n
}

// FlagsAge is how old the flags are by which the replica decides.
func (r replica) FlagsAge() time.Duration { return max(r.SeenAt.Sub(r.FlagsAt), 0) }

func (c *console) overview(w http.ResponseWriter, r *request) error {
	var d struct {
		Fleet      fleet
		HasRollout bool
		Rollout    rollout
		Points     []point
		Chart      any
		Changes    struct {
			Events []event `json:"events"`
		}
		Feedback feedbackList
	}
	var series struct {
		Points []point `json:"points"`
	}
	if err := c.admin.get(r, "/overview", nil, &d.Fleet); err != nil {
		return err
	}
	if c.opts.Flag != automation.FlagName { // the API's overview has that one alone
		var f flag
		if err := c.admin.get(r, c.flagPath(""), nil, &f); err != nil {
			return err
		}
		d.Fleet.Flag = &flagSummary{f.Enabled, len(f.EnabledUserIDs), len(f.DisabledUserIDs), f.Percentage, f.Notice, f.Version, f.UpdatedAt, f.UpdatedBy}
	}
	found, err := optional(c.admin.get(r, c.rolloutPath(""), nil, &d.Rollout))
	if err != nil {
		return err
	}
	if d.HasRollout = found; found {
		if _, err := optional(c.admin.get(r, c.rolloutPath("/series"), url.Values{"since": {byTheMinute.String()}}, &series)); err != nil {
			return err
		}
		d.Points, d.Chart = series.Points, errorChart(series.Points, d.Rollout.Plan.Limit/100)
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
