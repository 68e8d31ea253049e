package console

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxModels is the maximum number of models that the page lists.
const maxModels = 500

func (c *console) models(w http.ResponseWriter, r *request) error {
	var d struct {
		Name, Type string
		Types      []string
		Problem    string
		Hidden     int // models that the page does not list
		Resolved   struct {
			Name  string `json:"name"`
			ID    string `json:"id"`
			Type  string `json:"type"`
			Match string `json:"match"`
		}
		Catalog struct {
			Models []struct {
				Name string `json:"name"`
				ID   string `json:"id"`
				Type string `json:"type"`
			} `json:"models"`
			LoadedAt time.Time `json:"loaded_at"`
		}
	}
	d.Name, d.Type, d.Types = strings.TrimSpace(r.FormValue("name")), r.FormValue("type"), []string{"LLM", "EMBEDDING", "STT", "TTS"}
	if d.Name != "" {
		err := c.admin.get(r, "/models/resolve", keep(url.Values{}, r, "name", "type"), &d.Resolved)
		if isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusBadRequest) {
			d.Problem, err = publicText(err), nil
		}
		if err != nil {
			return err
		}
	}
	if err := c.admin.get(r, "/models", nil, &d.Catalog); err != nil {
		return err
	}
	if all := len(d.Catalog.Models); all > maxModels {
		d.Catalog.Models, d.Hidden = d.Catalog.Models[:maxModels], all-maxModels
	}
	c.pages.render(w, http.StatusOK, "models.html", c.view(r, "Models", d))
	return nil
}
