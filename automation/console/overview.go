package console

import (
	"net/http"
	"net/url"
	"time"
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

// fleet is GET /overview.
type fleet struct {
	MasterOn   bool                 `json:"master_on"` // of the replica that answers
	Components map[string]component `json:"components"`
	Sessions   map[string]int64     `json:"sessions"` // by state
	OptedIn    int64                `json:"opted_in"`
	OptedOut   int64                `json:"opted_out"`
	SeenUsers  int64                `json:"users_last_week"` // who used a session in the last seven days
	Replicas   []replica            `json:"replicas"`
}

type component struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

type replica struct {
	ID        string    `json:"id"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"`
	MasterOn  bool      `json:"master_on"`
	FlagsAt   time.Time `json:"flags_at"`    // its last good look at the flags
	Database  time.Time `json:"database_at"` // its last answer of the database
	NodeOK    bool      `json:"node_ok"`
	Outcomes  int64     `json:"outcomes"` // in its last minute
	Failures  int64     `json:"failures"`
}

func (c *console) overview(w http.ResponseWriter, r *request) error {
	var d struct {
		Flag       flag
		Fleet      fleet
		HasRollout bool
		Rollout    rollout
		Points     []point
		Chart      any
		Changes    struct {
			Events []event `json:"events"`
		}
		Feedback struct {
			Feedback []entry `json:"feedback"`
		}
	}
	var series struct {
		Points []point `json:"points"`
	}
	if err := c.admin.get(r, c.flagPath(""), nil, &d.Flag); err != nil {
		return err
	}
	if err := c.admin.get(r, "/overview", nil, &d.Fleet); err != nil {
		return err
	}
	found, err := optional(c.admin.get(r, c.rolloutPath(""), nil, &d.Rollout))
	if err != nil {
		return err
	}
	if d.HasRollout = found; found {
		if _, err := optional(c.admin.get(r, c.rolloutPath("/series"), url.Values{"since": {"24h"}}, &series)); err != nil {
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
