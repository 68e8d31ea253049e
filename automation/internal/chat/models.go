package chat

import (
	"net/http"
	"strconv"

	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// ListModels lists the models that can be named, in OpenAI's shape.
func (s *Service) ListModels() http.Handler {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"` // seconds since 1970; not known: zero
		OwnedBy string `json:"owned_by"`
		Type    string `json:"model_type,omitempty"`
		ModelID string `json:"model_id"`
	}
	return problem.Handler(s.Logger, func(w http.ResponseWriter, _ *http.Request) error {
		table := s.Models.Table()
		if table == nil {
			w.Header().Set("Retry-After", strconv.Itoa(seconds(retrySoon)))
			return problem.New(http.StatusServiceUnavailable, "The table of models is not loaded.")
		}
		list := []model{}
		for _, x := range table.Models() {
			list = append(list, model{ID: x.Name, Object: "model", Created: max(x.Created.Unix(), 0), OwnedBy: "morpheus", Type: string(x.Type), ModelID: x.ID})
		}
		return problem.WriteJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
	})
}
