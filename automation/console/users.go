package console

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"
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
			Sessions []session `json:"sessions"`
			Failures []struct {
				At       time.Time `json:"at"`
				Cause    string    `json:"cause"`
				Model    string    `json:"model"`
				Provider string    `json:"provider"`
				Detail   string    `json:"detail"`
				Requests int64     `json:"requests"` // that failed alike since Since; 0 is not counted
				Since    time.Time `json:"since"`
			} `json:"failures"`
			Budget struct {
				Held       int       `json:"sessions_held"`
				MaxHeld    int       `json:"sessions_max"`
				LeftHour   *int      `json:"opens_left_hour"`
				LeftDay    *int      `json:"opens_left_day"`
				NextFreeAt time.Time `json:"next_free_at"`
			} `json:"budget"`
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

// session is one of GET /sessions.
type session struct {
	ID        string    `json:"id"`
	RowID     string    `json:"row_id"`
	UserID    string    `json:"user_id"`
	Model     string    `json:"model"`
	State     string    `json:"state"`
	Reason    string    `json:"reason"`
	Provider  string    `json:"provider"`
	OpenedAt  time.Time `json:"opened_at"`
	EndsAt    time.Time `json:"ends_at"`
	LastError string    `json:"last_error"`
}

func (c *console) endSession(r *request) (target, message string, err error) {
	id := r.PostFormValue("id")
	target = "user?id=" + url.QueryEscape(r.PostFormValue("user"))
	return target, "The session ends as soon as nobody uses it.", c.admin.send(r, http.MethodDelete, "/sessions/"+url.PathEscape(id), nil, nil, nil)
}

func (c *console) sessions(w http.ResponseWriter, r *request) error {
	var d struct {
		Fleet  fleet
		State  string
		States []string
		UserID string
		List   struct {
			Sessions []session `json:"sessions"`
			Next     string    `json:"next"`
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
