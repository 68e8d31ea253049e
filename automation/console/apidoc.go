package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"slices"
	"strings"
)

// document is the part of an OpenAPI 3.1 document that the page shows.
type document struct {
	Info struct {
		Title       string `json:"title"`
		Version     string `json:"version"`
		Summary     string `json:"summary"`
		Description string `json:"description"`
	} `json:"info"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Parameters map[string]parameter       `json:"parameters"`
		Responses  map[string]answer          `json:"responses"`
		Schemas    map[string]json.RawMessage `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	ID          string            `json:"operationId"`
	Summary     string            `json:"summary"`
	Description string            `json:"description"`
	Tags        []string          `json:"tags"`
	Parameters  []parameter       `json:"parameters"`
	RequestBody content           `json:"requestBody"`
	Responses   map[string]answer `json:"responses"`

	Method, Path string `json:"-"`
}

type parameter struct {
	Ref         string          `json:"$ref"`
	Name        string          `json:"name"`
	In          string          `json:"in"`
	Required    bool            `json:"required"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"schema"`
}

type content struct {
	Content map[string]struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"content"`
}

type answer struct {
	content
	Ref         string `json:"$ref"`
	Description string `json:"description"`
}

// group has the operations of a tag.
type group struct {
	Tag        string
	Operations []operation
}

// namedSchema is a component of the document, as indented JSON Schema.
type namedSchema struct{ Name, Text string }

// APIDocument renders an OpenAPI 3.1 document, such as [automation.Module.OpenAPI]
// serves, as a page that loads nothing from elsewhere. Mount it as [New] says. It
// panics if the document is not valid JSON.
func APIDocument(openAPI []byte) http.Handler {
	var d document
	if err := json.Unmarshal(openAPI, &d); err != nil {
		panic(fmt.Errorf("console: the OpenAPI document: %w", err))
	}
	page := template.Must(template.New("apidoc.html").ParseFS(documentFiles, "apidoc/apidoc.html"))
	var b strings.Builder
	if err := page.Execute(&b, map[string]any{"Info": d.Info, "Groups": d.groups(), "Schemas": d.schemas()}); err != nil {
		panic(fmt.Errorf("console: the OpenAPI page: %w", err))
	}
	html := []byte(b.String())
	assets, err := fs.Sub(assetFiles, "assets")
	if err != nil {
		panic(err) // the folder is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /assets/", cached(http.StripPrefix("/assets/", http.FileServerFS(assets))))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(html)
	})
	return secureHeaders(mux)
}

// groups sorts the operations by tag, path and method.
func (d *document) groups() []group {
	byTag := map[string][]operation{}
	for path, methods := range d.Paths {
		for method, op := range methods {
			op.Method, op.Path = strings.ToUpper(method), path
			for i, p := range op.Parameters {
				op.Parameters[i] = resolve(p, p.Ref, d.Components.Parameters)
			}
			for status, a := range op.Responses {
				op.Responses[status] = resolve(a, a.Ref, d.Components.Responses)
			}
			tag := "other"
			if len(op.Tags) > 0 {
				tag = op.Tags[0]
			}
			byTag[tag] = append(byTag[tag], op)
		}
	}
	var list []group
	for tag, operations := range byTag {
		slices.SortFunc(operations, func(a, b operation) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method)) })
		list = append(list, group{tag, operations})
	}
	slices.SortFunc(list, func(a, b group) int { return cmp.Compare(a.Tag, b.Tag) })
	return list
}

// resolve follows a reference into the components.
func resolve[T any](v T, ref string, components map[string]T) T {
	if ref == "" {
		return v
	}
	return components[ref[strings.LastIndexByte(ref, '/')+1:]]
}

// Shape returns the name of the component that the schema refers to, or the
// schema's JSON.
func (c content) Shape() string {
	for media, body := range c.Content {
		var ref struct {
			Ref string `json:"$ref"`
		}
		_ = json.Unmarshal(body.Schema, &ref) // a schema without a reference is shown as it is
		if ref.Ref != "" {
			return ref.Ref[strings.LastIndexByte(ref.Ref, '/')+1:]
		}
		if len(body.Schema) == 0 {
			return media
		}
		return string(body.Schema)
	}
	return ""
}

// Type returns the type of a parameter's schema.
func (p parameter) Type() string {
	var s struct {
		Type any `json:"type"`
	}
	_ = json.Unmarshal(p.Schema, &s)
	return fmt.Sprint(s.Type)
}

func (d *document) schemas() []namedSchema {
	var list []namedSchema
	for name, schema := range d.Components.Schemas {
		var v any
		_ = json.Unmarshal(schema, &v) // the document was valid JSON
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			panic(err) // it came from JSON
		}
		list = append(list, namedSchema{name, string(text)})
	}
	slices.SortFunc(list, func(a, b namedSchema) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
