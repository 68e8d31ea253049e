package chat

import (
	"strings"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// route is a path in OpenAI's shape and what its models are for.
type route struct {
	path string // on the node
	kind mapping.Type
}

var routes = []route{
	{"/v1/chat/completions", mapping.LLM},
	{"/v1/completions", mapping.LLM},
	{"/v1/responses", mapping.LLM},
	{"/v1/embeddings", mapping.Embedding},
	{"/v1/audio/transcriptions", mapping.STT},
	{"/v1/audio/translations", mapping.STT},
	{"/v1/audio/speech", mapping.TTS},
}

// routeOf finds the route of a path by its end, so that a host can mount the
// handlers anywhere. It is the zero route where the path is none of OpenAI's.
func routeOf(path string) route {
	path = strings.TrimSuffix(path, "/")
	for _, r := range routes {
		if strings.HasSuffix(path, strings.TrimPrefix(r.path, "/v1")) {
			return r
		}
	}
	return route{}
}
