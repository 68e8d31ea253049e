package adminapi

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// Feedback lists feedback and marks entries as done. *feedback.Store implements
// it.
type Feedback interface {
	List(ctx context.Context, f feedback.Filter) ([]feedback.Entry, error)
	CountByStage(ctx context.Context) ([]feedback.StageCount, error)
	MarkDone(ctx context.Context, id int64, actor string) (feedback.Entry, error)
}

// listFeedback answers with entries, newest first, and the counts for each
// stage; with ?format=csv only with the entries.
func (a *api) listFeedback(c *httpapi.Call, _ string) error {
	q := c.R.URL.Query()
	limit, before, err := parsePage(q)
	if err != nil {
		return err
	}
	f := feedback.Filter{Stage: q.Get("stage"), UserID: q.Get("user"), Before: before, Limit: limit}
	if open := q.Get("open"); open != "" {
		if f.Open, err = strconv.ParseBool(open); err != nil {
			return problem.Invalid(problem.FieldError{Field: "open", Message: "must be true or false"})
		}
	}
	entries, err := a.Feedback.List(c.R.Context(), f)
	if err != nil {
		return databaseProblem(c.W, err)
	}
	switch q.Get("format") {
	case "csv":
		return answerCSV(c.W, entries)
	case "", "json":
	default:
		return problem.Invalid(problem.FieldError{Field: "format", Message: "must be json or csv"})
	}
	stages, err := a.Feedback.CountByStage(c.R.Context())
	if err != nil {
		return databaseProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"feedback": entries, "stages": append([]feedback.StageCount{}, stages...)})
}

func answerCSV(w http.ResponseWriter, entries []feedback.Entry) error {
	var b bytes.Buffer
	out := csv.NewWriter(&b)
	_ = out.Write([]string{"id", "created_at", "user_id", "stage", "rating", "message", "done_at", "done_by"})
	for _, e := range entries {
		rating, done := "", ""
		if e.Rating != nil {
			rating = strconv.Itoa(*e.Rating)
		}
		if !e.DoneAt.IsZero() {
			done = e.DoneAt.UTC().Format(time.RFC3339)
		}
		_ = out.Write([]string{strconv.FormatInt(e.ID, 10), e.CreatedAt.UTC().Format(time.RFC3339),
			text.Cell(e.UserID), text.Cell(e.Stage), rating, text.Cell(e.Message), done, text.Cell(e.DoneBy)})
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	_, _ = w.Write(b.Bytes())
	return nil
}

func (a *api) markFeedbackDone(c *httpapi.Call, actor string) error {
	id, err := strconv.ParseInt(c.R.PathValue("id"), 10, 64)
	if err != nil {
		return problem.New(http.StatusNotFound, "There is no feedback of that id.")
	}
	entry, err := a.Feedback.MarkDone(c.R.Context(), id, actor)
	switch {
	case errors.Is(err, feedback.ErrNotFound):
		return problem.New(http.StatusNotFound, "There is no feedback of that id.")
	case err != nil:
		return databaseProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, entry)
}
