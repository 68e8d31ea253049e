package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

func (c *console) flagSwitch(w http.ResponseWriter, r *request) error {
	var d struct {
		Flag  flags.Flag
		Fleet overview
		// Percentage is the value in the form. Estimate is the number of last week's
		// users who would have the feature with it.
		Percentage float64
		Estimate   int64
		Shown      []string // the first internal users
	}
	if err := c.admin.get(r, c.flagPath(""), nil, &d.Flag); err != nil {
		return err
	}
	if err := c.admin.get(r, "/overview", nil, &d.Fleet); err != nil {
		return err
	}
	d.Percentage = float64(d.Flag.Percentage) / float64(flags.Percent)
	if p, err := strconv.ParseFloat(r.FormValue("percentage"), 64); err == nil && p >= 0 && p <= 100 {
		d.Percentage = p
	}
	d.Estimate = int64(d.Percentage/100*float64(d.Fleet.ActiveWeek) + .5)
	d.Shown = d.Flag.EnabledUserIDs.List()
	d.Shown = d.Shown[:min(len(d.Shown), 200)]
	c.pages.render(w, http.StatusOK, "switch.html", c.view(r, "Switch", d))
	return nil
}

// changeFlag handles the forms of the switch page. A form has the flag's version
// that the operator saw, so that it cannot overwrite somebody else's change.
func (c *console) changeFlag(r *request) (target, message string, err error) {
	body := map[string]any{}
	switch form := r.PostFormValue("form"); form {
	case "off":
		body["enabled"], body["notice"] = false, r.PostFormValue("notice")
		message = "The feature is off. All replicas follow within seconds."
	case "on":
		body["enabled"], body["notice"] = true, ""
		message = "The feature is on."
	case "percentage":
		p, err := strconv.ParseFloat(strings.TrimSpace(r.PostFormValue("percentage")), 64)
		if err != nil || p < 0 || p > 100 {
			return "switch", "", &statusError{http.StatusBadRequest, "The percentage must be a number from 0 to 100."}
		}
		body["rollout_percentage"] = json.Number(strconv.FormatFloat(p, 'f', -1, 64))
		message = fmt.Sprintf("The percentage is %s %% now.", strconv.FormatFloat(p, 'f', -1, 64))
	case "add", "remove":
		user := strings.TrimSpace(r.PostFormValue("user"))
		if user == "" {
			return "switch", "", &statusError{http.StatusBadRequest, "Enter a user's id."}
		}
		var f flags.Flag
		if err := c.admin.get(r, c.flagPath(""), nil, &f); err != nil {
			return "switch", "", err
		}
		ids := slices.DeleteFunc(f.EnabledUserIDs.List(), func(id string) bool { return id == user })
		message = user + " is not an internal user any more."
		if form == "add" {
			ids, message = append(ids, user), user+" is an internal user now."
		}
		body["enabled_user_ids"] = ids
	default:
		return "switch", "", &statusError{http.StatusBadRequest, "Unknown form."}
	}
	header := http.Header{}
	if version := r.PostFormValue("version"); version != "" {
		header.Set("If-Match", `"`+version+`"`)
	}
	if comment := strings.TrimSpace(r.PostFormValue("comment")); comment != "" {
		header.Set("X-Automation-Comment", url.QueryEscape(comment))
	}
	var changed struct {
		RolloutEffect string `json:"rollout_effect"`
	}
	if err := c.admin.send(r, http.MethodPatch, c.flagPath(""), header, body, &changed); err != nil {
		return "switch", "", err
	}
	return "switch", strings.TrimSpace(message + " " + changed.RolloutEffect), nil
}
