package relay

import (
	"net/http"
	"slices"
	"strings"
)

// contentHeaders describe an answer's body. Content-Length is set from what is
// sent.
var contentHeaders = []string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control"}

// CopyHeader copies the headers of a node's answer that concern the client: the
// content's and those of CopyLimits. All others, the connection's own first, stay
// behind.
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
