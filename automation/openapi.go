package automation

import (
	"bytes"
	_ "embed" // the document
	"net/http"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI serves the OpenAPI 3.1 document of the users' API and of the module's
// other handlers for users; mount it at /openapi.json. The document's paths are those
// below [BasePath] and those of the example server.
func (m *Module) OpenAPI() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "max-age=300")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(openAPI)
	})
}

//go:embed openapi_admin.json
var openAPIAdmin []byte

// AdminOpenAPIDocument returns the OpenAPI 3.1 document of [Module.Admin].
func AdminOpenAPIDocument() []byte { return bytes.Clone(openAPIAdmin) }

// OpenAPIDocument returns the document that [Module.OpenAPI] serves.
func OpenAPIDocument() []byte { return bytes.Clone(openAPI) }
