package console

import (
	"cmp"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// event is an event of GET /flags/{name}/events or GET /rollouts/{name}/events.
type event struct {
	ID        int64           `json:"id"`
	Seq       int64           `json:"seq"`
	Action    string          `json:"action"`
	ChangedAt time.Time       `json:"changed_at"`
	ChangedBy string          `json:"changed_by"`
	Before    json.RawMessage `json:"before"`
	After     json.RawMessage `json:"after"`
	At        time.Time       `json:"at"`
	Actor     string          `json:"actor"`
	From      string          `json:"from"`
	To        string          `json:"to"`
	StageName string          `json:"stage_name"`
	Detail    string          `json:"detail"`
}

// actionNames are the displayed names of a flag's changes.
var actionNames = map[string]string{"insert": "created", "update": "changed", "delete": "removed"}

// ActionText returns the displayed name of the event's action.
func (e event) ActionText() string {
	return cmp.Or(actionNames[e.Action], strings.ReplaceAll(e.Action, "_", " "))
}

// isEmpty reports whether a column of a new row has an empty value.
func isEmpty(value json.RawMessage) bool {
	return slices.Contains([]string{"", "null", `""`, "[]"}, string(value))
}

// Changes lists the columns that a flag's event changed, or the object of an
// operator's action, each with its old and new value. It omits the empty columns
// of a new row.
func (e event) Changes() []string {
	var before, after map[string]json.RawMessage
	_ = json.Unmarshal(e.Before, &before) // absent in a rollout's event
	_ = json.Unmarshal(e.After, &after)
	columns := map[string]bool{}
	for column := range before {
		columns[column] = true
	}
	for column := range after {
		columns[column] = true
	}
	var list []string
	for column := range columns {
		was := ""
		if value, ok := before[column]; ok {
			was = text.Truncate(string(value), 200) + " → "
		} else if isEmpty(after[column]) {
			continue
		}
		list = append(list, column+": "+was+text.Truncate(string(after[column]), 200))
	}
	slices.Sort(list)
	return list
}

func (c *console) audit(w http.ResponseWriter, r *request) error {
	var d struct {
		Events []event
		Next   template.URL // the query of the next page
	}
	var page struct {
		Events []event `json:"events"`
	}
	if err := c.admin.get(r, c.flagPath("/events"), keep(url.Values{"limit": {"100"}}, r, "before"), &page); err != nil {
		return err
	}
	if d.Events = page.Events; len(d.Events) == 100 {
		d.Next = nextPage(url.Values{"before": {strconv.FormatInt(d.Events[99].ID, 10)}})
	}
	c.pages.render(w, http.StatusOK, "audit.html", c.view(r, "Audit", d))
	return nil
}
