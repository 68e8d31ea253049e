package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

func (c *console) report(w http.ResponseWriter, r *request) error {
	var d struct {
		Found    bool
		OpenBugs string
		Report   struct {
			State    string    `json:"state"`
			At       time.Time `json:"at"`
			Verdict  string    `json:"verdict"`
			Criteria []struct {
				Name     string `json:"name"`
				Verdict  string `json:"verdict"`
				Wanted   string `json:"wanted"`
				Measured string `json:"measured"`
			} `json:"criteria"`
		}
	}
	d.OpenBugs = r.FormValue("open_bugs")
	found, err := optional(c.admin.get(r, "/report", keep(url.Values{}, r, "open_bugs"), &d.Report))
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
