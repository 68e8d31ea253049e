package chat

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// modelAnswer is a model in OpenAI's shape.
type modelAnswer struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"` // seconds since 1970; 0 if not known
	OwnedBy string `json:"owned_by"`
	Type    string `json:"model_type,omitempty"`
	ModelID string `json:"model_id"`
}

func newModelAnswer(m mapping.Model) modelAnswer {
	return modelAnswer{ID: m.Name, Object: "model", Created: max(m.Created.Unix(), 0), OwnedBy: "morpheus", Type: string(m.Type), ModelID: m.ID}
}

// ServeModels serves GET …/models, the models that can be named, and
// GET …/models/{id}, one of them, below any prefix. An id may hold slashes and
// colons.
func (s *Service) ServeModels() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		answer, e := s.answerModels(r)
		if e != nil {
			if e.code == outcome.CodeMethodNotAllowed {
				h.Set("Allow", "GET, HEAD")
			}
			e.write(w)
			return
		}
		body, err := json.Marshal(answer)
		if err != nil {
			panic(err) // impossible: there are only strings and numbers
		}
		h.Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n'))
	})
}

func (s *Service) answerModels(r *http.Request) (any, *apiError) {
	id, ok := modelPath(r.URL.Path)
	switch {
	case !ok:
		return nil, clientError(outcome.CodeUnknownURL, "There is no such route.", nil)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return nil, clientError(outcome.CodeMethodNotAllowed, "Send a GET request.", nil)
	}
	table := s.Models.Table()
	if table == nil {
		return nil, modelError(mapping.ErrNotLoaded)
	}
	if id != "" {
		return answerModel(table, id)
	}
	list := []modelAnswer{}
	for _, m := range table.Models() {
		list = append(list, newModelAnswer(m))
	}
	return map[string]any{"object": "list", "data": list}, nil
}

// answerModel finds the model that a name means in a request. Only the fallback
// to the default model is left out: an unknown name is an error here.
func answerModel(table *mapping.Table, id string) (any, *apiError) {
	m, err := table.Resolve(id, "")
	if err != nil {
		e := modelError(err)
		e.status = http.StatusNotFound // as OpenAI does: the model is the resource here
		return nil, e
	}
	return newModelAnswer(m), nil
}

// modelPath returns the id that follows …/models/ in a path. The id is empty for
// the list.
func modelPath(path string) (id string, ok bool) {
	for rest := path; ; {
		var found bool
		if _, rest, found = strings.Cut(rest, "/models"); !found {
			return "", false
		}
		if rest == "" || rest[0] == '/' {
			return strings.Trim(rest, "/"), true
		}
	}
}
