package relay

import (
	"net/http"
	"slices"
	"strings"
)

// contentHeaders describe an answer's body. Content-Length is not among them: it
// is set to the length that is really sent.
var contentHeaders = []string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control"}

// CopyHeader copies the headers of a node's answer that concern the client: the
// contentHeaders and those of CopyLimits. It copies no others: some belong to the
// connection to the node.
func CopyHeader(dst, src http.Header) {
	for _, name := range contentHeaders {
		if values := src[name]; len(values) > 0 {
			dst[name] = slices.Clone(values)
		}
	}
	CopyLimits(dst, src)
}

// CopyLimits copies the headers that say when to send the next request:
// Retry-After in all its forms, X-Ratelimit-… and Openai-….
func CopyLimits(dst, src http.Header) {
	for name, values := range src {
		if strings.HasPrefix(name, "Retry-After") || strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, "Openai-") {
			dst[name] = slices.Clone(values)
		}
	}
}
