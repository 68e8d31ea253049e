package adminapi

import (
	"context"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Overview is the state of the feature, on all replicas and on the one that
// answers.
type Overview struct {
	MasterOn   bool             `json:"master_on"`       // this process's master switch
	Flag       *FlagSummary     `json:"flag"`            // as this process has read it; nil before that
	Components any              `json:"components"`      // of this process, as in its readiness
	Sessions   map[string]int64 `json:"sessions"`        // by state, of all replicas
	OptedIn    int64            `json:"opted_in"`        // users whose stored settings have automation on
	OptedOut   int64            `json:"opted_out"`       // users whose stored settings have automation off
	ActiveWeek int64            `json:"users_last_week"` // users for whom a session was opened in the last seven days
	CountedAt  time.Time        `json:"counted_at"`      // when the users were counted
	Chats      fleet.Chats      `json:"chats"`
	Opens      []fleet.Opens    `json:"opens"`    // of the last hour, by purpose
	Alerts     []fleet.Alert    `json:"alerts"`   // those of deploy/prometheus whose condition is met
	Replicas   any              `json:"replicas"` // those that have reported lately
}

// FlagSummary is a flag without its lists, which may have 10,000 ids each.
type FlagSummary struct {
	Enabled       bool             `json:"enabled"`
	EnabledUsers  int              `json:"enabled_users"`  // the length of its list
	DisabledUsers int              `json:"disabled_users"` // the length of its list
	Percentage    flags.Percentage `json:"rollout_percentage"`
	Notice        string           `json:"notice"`
	Version       int64            `json:"version"`
	UpdatedAt     time.Time        `json:"updated_at"`
	UpdatedBy     string           `json:"updated_by"`
}

// SummarizeFlag returns the summary of a flag. It returns nil for nil.
func SummarizeFlag(f *flags.Flag) *FlagSummary {
	if f == nil {
		return nil
	}
	return &FlagSummary{f.Enabled, f.EnabledUserIDs.Len(), f.DisabledUserIDs.Len(), f.Percentage, f.Notice, f.Version, f.UpdatedAt, f.UpdatedBy}
}

func (a *api) getOverview(c *httpapi.Call, _ string) error {
	overview, err := a.Overview(c.R.Context())
	if err != nil {
		return databaseProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, overview)
}

// UserSettings reads what a user has chosen. *settings.Store implements it.
type UserSettings interface {
	Get(ctx context.Context, userID string) (settings.Settings, error)
}

// Models resolves and lists the models. *mapping.Catalog implements it.
type Models interface {
	Resolve(name string, want mapping.Type) (mapping.Model, error)
	Table() *mapping.Table
	Health() mapping.Health
}

// getUser answers with what support needs to know about a user, except the
// flag's decision, which is at /flags/{name}/users/{id}.
func (a *api) getUser(c *httpapi.Call, _ string) error {
	id := c.R.PathValue("id")
	chosen, err := a.Settings.Get(c.R.Context(), id)
	if err != nil {
		return databaseProblem(c.W, err)
	}
	open, err := a.Sessions.List(c.R.Context(), id)
	if err != nil {
		return databaseProblem(c.W, err)
	}
	type sessionAnswer struct {
		ID       string `json:"id"`
		Model    string `json:"model"`
		State    string `json:"state"`
		OpenedAt any    `json:"opened_at"`
		EndsAt   any    `json:"ends_at"`
	}
	sessions := make([]sessionAnswer, len(open))
	for i, s := range open {
		sessions[i] = sessionAnswer{s.SessionID, a.ModelName(s.ModelID), httpapi.SessionState(s), s.OpenedAt, s.EndsAt}
	}
	used, err := a.Sessions.Usage(c.R.Context(), id)
	if err != nil {
		return databaseProblem(c.W, err)
	}
	failures, err := a.Failures(c.R.Context(), id)
	if err != nil {
		return databaseProblem(c.W, err)
	}
	for i, f := range failures {
		if f.ModelID != "" {
			failures[i].Model = a.ModelName(f.ModelID)
		}
	}
	answer := map[string]any{"user_id": id, "sessions": sessions, "failures": failures, "budget": httpapi.NewBudget(used, a.Now()), "settings": map[string]any{
		"is_enabled": chosen.IsEnabled, "session_duration": int64(chosen.SessionDuration.Seconds()), "updated_at": chosen.UpdatedAt}}
	return problem.WriteJSON(c.W, http.StatusOK, answer)
}

type modelAnswer struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	Type  string `json:"type"`
	Match string `json:"match,omitempty"`
}

func (a *api) listModels(c *httpapi.Call, _ string) error {
	table := a.Models.Table()
	if table == nil {
		httpapi.RetryAfter(c.W, httpapi.RetrySoon)
		return httpapi.Fail(outcome.Host, problem.New(http.StatusServiceUnavailable, "The table of models is not loaded."))
	}
	models := []modelAnswer{}
	for _, m := range table.Models() {
		models = append(models, modelAnswer{Name: m.Name, ID: m.ID, Type: string(m.Type)})
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"models": models, "loaded_at": a.Models.Health().LoadedAt})
}

// resolveModel answers with the model that ?name= means to a request that needs a
// model of ?type=.
func (a *api) resolveModel(c *httpapi.Call, _ string) error {
	q := c.R.URL.Query()
	m, err := a.Models.Resolve(q.Get("name"), mapping.Type(q.Get("type")))
	if err != nil {
		return problem.New(http.StatusNotFound, "The name does not resolve: "+err.Error()+".")
	}
	return problem.WriteJSON(c.W, http.StatusOK, modelAnswer{m.Name, m.ID, string(m.Type), m.Match})
}
