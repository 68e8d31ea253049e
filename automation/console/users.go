package console

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
)

func (c *console) user(w http.ResponseWriter, r *request) error {
	var d struct {
		ID       string
		Decision struct {
			On     bool   `json:"on"`
			Reason string `json:"reason"`
			Bucket int    `json:"bucket"`
			Steps  []struct {
				Rule    string `json:"rule"`
				Finding string `json:"finding"`
				Decides bool   `json:"decides"`
			} `json:"steps"`
		}
		User struct {
			Settings struct {
				IsEnabled       bool      `json:"is_enabled"`
				SessionDuration int64     `json:"session_duration"`
				UpdatedAt       time.Time `json:"updated_at"`
			} `json:"settings"`
			Sessions []fleet.Session `json:"sessions"`
			Failures []fleet.Failure `json:"failures"`
			Budget   httpapi.Budget  `json:"budget"`
		}
		Feedback feedbackList
	}
	if d.ID = strings.TrimSpace(r.FormValue("id")); d.ID != "" {
		id := url.PathEscape(d.ID)
		if err := c.admin.get(r, c.flagPath("/users/"+id), nil, &d.Decision); err != nil {
			return err
		}
		if err := c.admin.get(r, "/users/"+id, nil, &d.User); err != nil {
			return err
		}
		if err := c.admin.get(r, "/feedback", url.Values{"user": {d.ID}, "limit": {"20"}}, &d.Feedback); err != nil {
			return err
		}
	}
	c.pages.render(w, http.StatusOK, "user.html", c.view(r, "User", d))
	return nil
}

func (c *console) endSession(r *request) (target, message string, err error) {
	id := r.PostFormValue("id")
	target = "user?id=" + url.QueryEscape(r.PostFormValue("user"))
	return target, "The session ends as soon as nobody uses it.", c.admin.send(r, http.MethodDelete, "/sessions/"+url.PathEscape(id), nil, nil, nil)
}

func (c *console) sessions(w http.ResponseWriter, r *request) error {
	var d struct {
		Fleet  overview
		State  string
		States []string
		UserID string
		List   struct {
			Sessions []fleet.Session `json:"sessions"`
			Next     string          `json:"next"`
		}
		Next template.URL // the query of the next page
	}
	d.State, d.UserID, d.States = r.FormValue("state"), strings.TrimSpace(r.FormValue("user")),
		[]string{"opening", "unknown", "open", "ending", "lost", "closed", "failed"}
	if err := c.admin.get(r, "/overview", nil, &d.Fleet); err != nil {
		return err
	}
	query := keep(url.Values{"limit": {"100"}}, r, "state", "user", "before")
	if err := c.admin.get(r, "/sessions", query, &d.List); err != nil {
		return err
	}
	if d.List.Next != "" {
		d.Next = nextPage(keep(url.Values{"before": {d.List.Next}}, r, "state", "user"))
	}
	c.pages.render(w, http.StatusOK, "sessions.html", c.view(r, "Sessions", d))
	return nil
}
