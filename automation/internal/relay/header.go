package relay

import (
	"net/http"
	"net/textproto"
	"strings"
)

// answerHeaders are the headers of an answer that concern the client.
// Content-Length is set from what is sent.
var answerHeaders = map[string]bool{
	"Content-Type": true, "Content-Encoding": true, "Content-Disposition": true, "Content-Language": true,
	"Cache-Control": true, "Retry-After": true, "Retry-After-Ms": true,
}

// CopyHeader copies the headers of a node's answer that concern the client: the
// content's, Retry-After in all its forms, X-Ratelimit-… and Openai-…. All others,
// the connection's own first, stay behind.
func CopyHeader(dst, src http.Header) {
	for name, values := range src {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if answerHeaders[name] || strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, "Openai-") {
			dst[name] = append([]string(nil), values...)
		}
	}
}
