package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// activity is how requests of one kind ended with one cause.
type activity struct {
	Kind     string `json:"kind"`
	Cause    string `json:"cause"`
	Requests int64  `json:"requests"`
}

func (c *console) report(w http.ResponseWriter, r *request) error {
	var d struct {
		Found    bool
		OpenBugs string
		Since    string
		Report   struct {
			State    string    `json:"state"`
			ByHand   bool      `json:"by_hand"`
			Detail   string    `json:"detail"`
			At       time.Time `json:"at"`
			Verdict  string    `json:"verdict"`
			Criteria []struct {
				Name     string `json:"name"`
				Verdict  string `json:"verdict"`
				Wanted   string `json:"wanted"`
				Measured string `json:"measured"`
			} `json:"criteria"`
			Steps []struct {
				At         time.Time   `json:"at"`
				By         string      `json:"by"`
				Enabled    bool        `json:"enabled"`
				Percentage json.Number `json:"percentage"`
				Listed     int64       `json:"listed"`
			} `json:"steps"`
			TakenBack *struct {
				At       time.Time  `json:"at"`
				By       string     `json:"by"`
				Detail   string     `json:"detail"`
				Stage    string     `json:"stage"`
				Since    time.Time  `json:"since"`
				Activity []activity `json:"activity"`
			} `json:"taken_back"`
			Review struct {
				From  time.Time `json:"from"`
				To    time.Time `json:"to"`
				Opens []struct {
					Purpose string `json:"purpose"`
					Opened  int64  `json:"opened"`
					Failed  int64  `json:"failed"`
				} `json:"opens"`
				Activity []activity `json:"activity"`
				Users    struct {
					Active   int64 `json:"active"`
					OptedIn  int64 `json:"opted_in"`
					OptedOut int64 `json:"opted_out"`
				} `json:"users"`
				Unused []struct {
					What     string `json:"what"`
					Sessions int64  `json:"sessions"`
				} `json:"unused"`
				Feedback struct {
					Count  int64   `json:"count"`
					Open   int64   `json:"open"`
					Rated  int64   `json:"rated"`
					Rating float64 `json:"rating"`
				} `json:"feedback"`
			} `json:"review"`
		}
	}
	d.OpenBugs, d.Since = r.FormValue("open_bugs"), r.FormValue("since")
	found, err := optional(c.admin.get(r, "/report", keep(url.Values{}, r, "open_bugs", "since"), &d.Report))
	if err != nil {
		return err
	}
	d.Found = found
	c.pages.render(w, http.StatusOK, "report.html", c.view(r, "Report", d))
	return nil
}

func (c *console) cleanup(w http.ResponseWriter, r *request) error {
	c.pages.render(w, http.StatusOK, "cleanup.html", c.view(r, "Clean-up", nil))
	return nil
}

func (c *console) runCleanup(r *request) (target, message string, err error) {
	dry := r.PostFormValue("dry_run") != ""
	var report struct {
		Removed []struct {
			Kind string `json:"kind"`
			Rows int64  `json:"rows"`
		} `json:"removed"`
	}
	if err := c.admin.send(r, http.MethodPost, "/cleanup", nil, map[string]any{"dry_run": dry}, &report); err != nil {
		return "cleanup", "", err
	}
	var parts []string
	for _, n := range report.Removed {
		if n.Rows > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", formatCount(n.Rows), strings.ReplaceAll(n.Kind, "_", " ")))
		}
	}
	message = "Removed: "
	if dry {
		message = "A clean-up would remove: "
	}
	if len(parts) == 0 {
		return "cleanup", "There is nothing past its retention.", nil
	}
	return "cleanup", message + strings.Join(parts, ", ") + ".", nil
}
