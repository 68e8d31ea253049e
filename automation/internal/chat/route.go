package chat

import (
	"strings"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// route is one of OpenAI's paths and the type of model that it takes.
type route struct {
	path     string // on the node
	kind     mapping.Type
	optional bool // current nodes do not have it
}

var routes = []route{
	{"/v1/chat/completions", mapping.LLM, false},
	{"/v1/completions", mapping.LLM, true},
	{"/v1/responses", mapping.LLM, true},
	{"/v1/embeddings", mapping.Embedding, false},
	{"/v1/audio/transcriptions", mapping.STT, false},
	{"/v1/audio/translations", mapping.STT, true},
	{"/v1/audio/speech", mapping.TTS, false},
}

// routeOf finds the route of a path by its end, so that a host can mount the
// handlers anywhere. It returns the zero route for a path that is not OpenAI's.
func routeOf(path string) route {
	path = strings.TrimSuffix(path, "/")
	for _, r := range routes {
		if strings.HasSuffix(path, strings.TrimPrefix(r.path, "/v1")) {
			return r
		}
	}
	return route{}
}

// missingFor is how long missingRoutes remembers a route.
const missingFor = 10 * time.Minute

// missingRoutes remembers the optional routes that the node has lately answered
// with 404, so that they are refused before a session is paid for. All nodes have
// the other routes: their 404 comes from something in front of the node, and may
// not last.
type missingRoutes struct {
	mu    sync.Mutex
	until map[string]time.Time // by path
}

func (m *missingRoutes) add(r route, now time.Time) {
	if !r.optional {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil {
		m.until = map[string]time.Time{}
	}
	m.until[r.path] = now.Add(missingFor)
}

func (m *missingRoutes) has(r route, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Before(m.until[r.path])
}
