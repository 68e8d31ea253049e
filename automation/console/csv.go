package console

import (
	"encoding/csv"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// maxCSV is the maximum number of rows of a CSV, as a query parameter. The page's
// filters and cursor select the rows.
const maxCSV = "1000"

// writeCSV answers with rows. The first row has the columns' names.
func writeCSV(w http.ResponseWriter, name string, rows [][]string) error {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = text.Cell(cell)
		}
	}
	return csv.NewWriter(w).WriteAll(rows)
}

func csvTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func (c *console) auditCSV(w http.ResponseWriter, r *request) error {
	var page struct {
		Events []event `json:"events"`
	}
	if err := c.admin.get(r, c.flagPath("/events"), keep(url.Values{"limit": {maxCSV}}, r, "before"), &page); err != nil {
		return err
	}
	rows := [][]string{{"id", "changed_at", "changed_by", "action", "changes"}}
	for _, e := range page.Events {
		rows = append(rows, []string{strconv.FormatInt(e.ID, 10), csvTime(e.ChangedAt), e.ChangedBy, e.Action, strings.Join(e.Changes(), "; ")})
	}
	return writeCSV(w, "audit.csv", rows)
}

func (c *console) sessionsCSV(w http.ResponseWriter, r *request) error {
	var page struct {
		Sessions []fleet.Session `json:"sessions"`
	}
	if err := c.admin.get(r, "/sessions", keep(url.Values{"limit": {maxCSV}}, r, "state", "user", "before"), &page); err != nil {
		return err
	}
	rows := [][]string{{"id", "user_id", "model", "state", "reason", "last_error", "provider", "opened_at", "ends_at"}}
	for _, s := range page.Sessions {
		rows = append(rows, []string{s.ID.String(), s.UserID, s.Model, s.State, s.Reason, s.LastError, s.Provider, csvTime(s.OpenedAt.Time), csvTime(s.EndsAt.Time)})
	}
	return writeCSV(w, "sessions.csv", rows)
}
