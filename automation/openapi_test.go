package automation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"mime"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

type object = map[string]any

// document is openapi.json with every reference replaced by what it points to.
var document = sync.OnceValues(func() (object, error) {
	text, err := os.ReadFile("openapi.json")
	if err != nil {
		return nil, err
	}
	var doc object
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	resolved, err := resolve(doc, doc)
	if err != nil {
		return nil, err
	}
	return resolved.(object), nil
})

// resolve returns v with every reference to doc replaced.
func resolve(doc object, v any) (any, error) {
	switch v := v.(type) {
	case object:
		if ref, ok := v["$ref"].(string); ok {
			var at any = doc
			for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				at = at.(object)[name]
				if at == nil {
					return nil, fmt.Errorf("the reference %s points to nothing", ref)
				}
			}
			return resolve(doc, at)
		}
		out := object{}
		for k, x := range v {
			var err error
			if out[k], err = resolve(doc, x); err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			var err error
			if out[i], err = resolve(doc, x); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// findOperation returns the document's operation for a request, or nil.
func findOperation(doc object, method, path string) object {
	for template, item := range doc["paths"].(object) {
		pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(template), `\{id\}`, "[^/]+") + "$"
		if regexp.MustCompile(pattern).MatchString(path) {
			op, _ := item.(object)[strings.ToLower(method)].(object)
			return op
		}
	}
	return nil
}

// checkAgainstOpenAPI asserts that the document declares the status, headers, media
// type and body of an answer. It ignores routes that are not in the document.
func checkAgainstOpenAPI(t testing.TB, method, path string, a answer) {
	t.Helper()
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	op := findOperation(doc, method, path)
	if op == nil {
		return
	}
	responses := op["responses"].(object)
	want, ok := responses[strconv.Itoa(a.status)].(object)
	if !ok {
		want, ok = responses["default"].(object)
	}
	if !ok {
		t.Errorf("%s %s answers %d, which openapi.json does not declare", method, path, a.status)
		return
	}
	headers, _ := want["headers"].(object)
	for name, h := range headers {
		if required, _ := h.(object)["required"].(bool); required && a.header.Get(name) == "" {
			t.Errorf("%s %s answers %d without the required header %s", method, path, a.status, name)
		}
	}
	content, _ := want["content"].(object)
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	body, ok := content[media].(object)
	switch {
	case content == nil && a.body == "":
		return
	case !ok:
		t.Errorf("%s %s answers %d in %q, which openapi.json does not declare", method, path, a.status, media)
		return
	case !strings.HasSuffix(media, "json"):
		return
	}
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Errorf("%s %s answers %d with the body %q: %v", method, path, a.status, a.body, err)
		return
	}
	if err := validateSchema(body["schema"].(object), v, "body"); err != nil {
		t.Errorf("%s %s answers %d with the body %s, which openapi.json does not declare: %v", method, path, a.status, a.body, err)
	}
}

// validateSchema checks a value against a schema. It implements the part of JSON Schema
// that the document uses.
func validateSchema(schema object, v any, at string) error {
	var errs []error
	addError := func(format string, args ...any) { errs = append(errs, fmt.Errorf(at+": "+format, args...)) }
	if want := schema["type"]; want != nil && !slices.Contains(typesOf(want), typeOf(v)) &&
		(typeOf(v) != "integer" || !slices.Contains(typesOf(want), "number")) {
		addError("is %s, want %v", typeOf(v), want)
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, v) {
		addError("%v is none of %v", v, enum)
	}
	if minimum, ok := schema["minimum"].(float64); ok {
		if n, ok := v.(float64); ok && n < minimum {
			addError("%v is below %v", n, minimum)
		}
	}
	if text, ok := v.(string); ok && schema["format"] == "date-time" {
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			addError("%v", err)
		}
	}
	switch v := v.(type) {
	case []any:
		if items, ok := schema["items"].(object); ok {
			for i, x := range v {
				errs = append(errs, validateSchema(items, x, fmt.Sprintf("%s[%d]", at, i)))
			}
		}
	case object:
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				addError("%s is missing", name)
			}
		}
		properties, _ := schema["properties"].(object)
		for name, x := range v {
			if p, ok := properties[name].(object); ok {
				errs = append(errs, validateSchema(p, x, at+"."+name))
			} else if extra, ok := schema["additionalProperties"].(object); ok {
				errs = append(errs, validateSchema(extra, x, at+"."+name))
			} else if schema["additionalProperties"] == false {
				addError("%s is not declared", name)
			}
		}
	}
	return errors.Join(errs...)
}

// typesOf returns the types of a schema, which names one or lists several.
func typesOf(v any) []string {
	if list, ok := v.([]any); ok {
		var names []string
		for _, x := range list {
			names = append(names, x.(string))
		}
		return names
	}
	return []string{v.(string)}
}

// typeOf returns JSON Schema's type of a decoded value.
func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		if v == math.Trunc(v) {
			return "integer"
		}
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}

func TestOpenAPI_HasExactlyTheRoutesOfTheAPI(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	ids := map[any]bool{}
	for path, item := range doc["paths"].(object) {
		for method, op := range item.(object) {
			id := op.(object)["operationId"]
			if id == nil || ids[id] {
				t.Errorf("%s %s: operationId %v is missing or not unique", method, path, id)
			}
			ids[id] = true
			if strings.HasPrefix(path, automation.BasePath) {
				got = append(got, strings.ToUpper(method)+" "+path)
			}
		}
	}
	want := automation.Routes()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes of the document (-API +document):\n%s", diff)
	}
}

func TestAdminDocument_HasExactlyTheRoutesOfTheAPI(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(automation.AdminOpenAPIDocument(), &doc); err != nil {
		t.Fatal(err)
	}
	var got []string
	ids := map[string]bool{}
	for path, item := range doc.Paths {
		for method, op := range item {
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operationId %q is missing or not unique", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
			got = append(got, strings.ToUpper(method)+" "+path)
		}
	}
	want := automation.AdminRoutes()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes of the document (-API +document):\n%s", diff)
	}
}

func TestOpenAPI_IsServedAndItsOtherRoutesExist(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{withFeed: true})
	served := h.get("/openapi.json", "")
	file, err := os.ReadFile("openapi.json")
	if err != nil || served.body != string(file) || served.header.Get("Content-Type") != "application/json" {
		t.Errorf("/openapi.json: read error %v, header %q; want the content of openapi.json as application/json", err, served.header)
	}
	doc, _ := document()
	for path, item := range doc["paths"].(object) {
		for method := range maps.Keys(item.(object)) {
			a := h.do(strings.ToUpper(method), strings.NewReplacer("{id}", "0x1", "{model}", "llama").Replace(path), "alice", "")
			if a.status == 405 || a.status == 404 && !strings.Contains(path, "{id}") {
				t.Errorf("openapi.json declares %s %s, but the answer is %d", strings.ToUpper(method), path, a.status)
			}
		}
	}
}

// validateSchema itself must find errors, otherwise checkAgainstOpenAPI proves nothing.
func TestValidateSchema_FindsErrors(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	schema := doc["components"].(object)["schemas"].(object)["Settings"].(object)
	good := `{"user_id":"a","is_enabled":true,"session_duration":3600,"created_at":null,"updated_at":"2026-01-02T03:04:05Z"}`
	for _, tt := range []struct{ old, new, want string }{
		{`"a"`, `"a"`, "<nil>"},
		{`"a"`, `7`, "body.user_id: is integer"},
		{`3600`, `299`, "body.session_duration: 299 is below"},
		{`3600`, `300.5`, "body.session_duration: is number"},
		{`,"created_at":null`, ``, "created_at is missing"},
		{`{`, `{"x":1,`, "x is not declared"},
		{`2026-01`, `2026/01`, "body.updated_at: parsing time"},
	} {
		var v any
		if err := json.Unmarshal([]byte(strings.Replace(good, tt.old, tt.new, 1)), &v); err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(validateSchema(schema, v, "body"))
		if !strings.Contains(got, tt.want) {
			t.Errorf("with %s in place of %s: error %s, want %s", tt.new, tt.old, got, tt.want)
		}
	}
}
