package console

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"

	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
)

// feedbackList is the response of GET /feedback.
type feedbackList struct {
	Feedback []feedback.Entry      `json:"feedback"`
	Stages   []feedback.StageCount `json:"stages"`
}

// ForStage returns the counts of a stage, or nil if nobody gave feedback in it.
func (l feedbackList) ForStage(stage string) *feedback.StageCount {
	for _, s := range l.Stages {
		if s.Stage == stage {
			return &s
		}
	}
	return nil
}

// feedbackPageSize is the number of entries on a page. It is small because each
// may have 2,000 characters.
const feedbackPageSize = 25

func (c *console) feedback(w http.ResponseWriter, r *request) error {
	var d struct {
		Open  bool
		Stage string
		List  feedbackList
		Next  template.URL // the query of the next page
	}
	d.Open, d.Stage = r.FormValue("open") != "", r.FormValue("stage")
	query := keep(url.Values{"limit": {strconv.Itoa(feedbackPageSize)}}, r, "stage", "before")
	if d.Open {
		query.Set("open", "true")
	}
	if err := c.admin.get(r, "/feedback", query, &d.List); err != nil {
		return err
	}
	if list := d.List.Feedback; len(list) == feedbackPageSize {
		d.Next = nextPage(keep(url.Values{"before": {strconv.FormatInt(list[len(list)-1].ID, 10)}}, r, "stage", "open"))
	}
	c.pages.render(w, http.StatusOK, "feedback.html", c.view(r, "Feedback", d))
	return nil
}

// feedbackCSV relays the API's CSV.
func (c *console) feedbackCSV(w http.ResponseWriter, r *request) error {
	body, err := c.admin.raw(r, "/feedback", keep(url.Values{"limit": {"1000"}, "format": {"csv"}}, r, "stage", "open", "before"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="feedback.csv"`)
	_, err = w.Write(body)
	return err
}

func (c *console) markFeedbackDone(r *request) (target, message string, err error) {
	id, err := strconv.ParseInt(r.PostFormValue("id"), 10, 64)
	if err != nil {
		return "feedback", "", &statusError{http.StatusBadRequest, "Unknown feedback."}
	}
	return "feedback?open=true", "Marked as done.", c.admin.send(r, http.MethodPost, fmt.Sprintf("/feedback/%d/done", id), nil, map[string]any{}, nil)
}
