package console

import (
	"net/http"
	"net/url"

	"github.com/MorpheusAIs/gateway-automation/internal/report"
)

func (c *console) report(w http.ResponseWriter, r *request) error {
	var d struct {
		Found    bool
		OpenBugs string
		Since    string
		Report   report.Report
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
