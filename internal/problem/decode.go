package problem

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxDepth  = 16 // of values in values
	maxErrors = 20 // in one answer
	maxText   = 80 // bytes of a name or message, which may repeat what was sent
)

// Decode reads the one JSON object that is the request's body into dst, a
// pointer to a struct whose fields all have json tags. It takes nothing that is
// not exactly meant, and returns a *Problem that names all fields at fault:
//
//   - 415 for a Content-Type other than application/json in UTF-8, or an
//     encoded body; without a Content-Type the body is taken for JSON
//   - 413 for more than limit bytes
//   - 400 for broken JSON, trailing data, a field that is unknown, there twice
//     or missing, null, a value of another type
//
// A field is required unless its type is a pointer, which stays nil when the
// field is absent. Names are matched exactly. A whole number is written as one:
// 3600.0 and 36e2 are refused. Strings hold no U+0000, as PostgreSQL has none.
// A type that is a json.Unmarshaler reads its own values, and its errors are
// shown. Others than bool, int, int64 and string are left to encoding/json,
// unknown fields in them refused as well. After an error dst is not to be used.
func Decode(r *http.Request, limit int64, dst any) error {
	if err := checkMediaType(r.Header); err != nil {
		return err
	}
	data, err := readBody(r, limit)
	if err != nil {
		return err
	}
	if err := checkSyntax(data); err != nil {
		return err
	}
	names, raw, doubled := members(data)
	var wrong []FieldError
	complain := func(field, message string) { wrong = append(wrong, FieldError{field, message}) }
	for _, name := range doubled {
		complain(name, "is there twice")
	}
	fields := make(map[string]bool)
	target := reflect.ValueOf(dst).Elem()
	for i := range target.NumField() {
		name, _, _ := strings.Cut(target.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = true
		value, given := raw[name]
		switch field := target.Field(i); {
		case given:
			wrong = append(wrong, setField(field, name, value)...)
		case field.Kind() != reflect.Pointer:
			complain(name, "is required")
		}
	}
	for _, name := range names {
		if !fields[name] {
			complain(name, "is unknown")
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	wrong = wrong[:min(len(wrong), maxErrors)]
	for i, w := range wrong {
		wrong[i] = FieldError{short(w.Field), short(w.Message)}
	}
	return Invalid(wrong...)
}

// short cuts what the client may have made long.
func short(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

func checkMediaType(h http.Header) error {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return New(http.StatusUnsupportedMediaType, "Send the body without Content-Encoding.")
	}
	contentType := h.Get("Content-Type")
	if contentType == "" {
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	charset, stated := params["charset"]
	if err != nil || mediaType != "application/json" || stated && !strings.EqualFold(charset, "utf-8") {
		return New(http.StatusUnsupportedMediaType, "Send the body as application/json in UTF-8.")
	}
	return nil
}

func readBody(r *http.Request, limit int64) ([]byte, error) {
	tooLarge := New(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body may have at most %d bytes.", limit))
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	if r.Body == nil {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok || int64(len(data)) > limit {
		return nil, tooLarge
	}
	if err != nil {
		return nil, New(http.StatusBadRequest, "The body could not be read to its end.").Because(err)
	}
	return data, nil
}

// checkSyntax accepts one object, no deeper than maxDepth and followed by nothing.
func checkSyntax(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return New(http.StatusBadRequest, "The body is empty; a JSON object was expected.")
	}
	if !utf8.Valid(data) {
		return New(http.StatusBadRequest, "The body is not UTF-8.")
	}
	var value json.RawMessage
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(data, &value)); ok {
		return New(http.StatusBadRequest, fmt.Sprintf("The body is not valid JSON: %v at byte %d.", syntax, syntax.Offset))
	}
	if value[0] != '{' {
		return New(http.StatusBadRequest, "The body is not a JSON object.")
	}
	depth := 0
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.Token()
		if err != nil {
			return nil
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return New(http.StatusBadRequest, "The body is nested too deeply.")
		}
	}
}

// members takes a valid object apart: its names in their order, each one's last
// value, and the names that are there more than once.
func members(object []byte) (names []string, raw map[string]json.RawMessage, doubled []string) {
	raw = make(map[string]json.RawMessage)
	times := make(map[string]int)
	d := json.NewDecoder(bytes.NewReader(object))
	_, _ = d.Token()
	for d.More() {
		token, _ := d.Token()
		name, _ := token.(string)
		var value json.RawMessage
		_ = d.Decode(&value)
		raw[name] = value
		switch times[name]++; times[name] {
		case 1:
			names = append(names, name)
		case 2:
			doubled = append(doubled, name)
		}
	}
	return names, raw, doubled
}

// setField sets a field, or says under its name what is wrong with the value.
func setField(field reflect.Value, name string, value json.RawMessage) []FieldError {
	if value[0] == 'n' {
		return []FieldError{{name, "must not be null"}}
	}
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	if own, ok := field.Addr().Interface().(json.Unmarshaler); ok {
		return decodeOwn(own, name, value)
	}
	var message string
	switch field.Kind() {
	case reflect.Bool:
		if message = "must be true or false"; value[0] == 't' || value[0] == 'f' {
			field.SetBool(value[0] == 't')
			return nil
		}
	case reflect.Int, reflect.Int64:
		message = "must be a whole number, written without point, exponent or quotes"
		n, err := strconv.ParseInt(string(value), 10, field.Type().Bits())
		if err == nil {
			field.SetInt(n)
			return nil
		}
		if errors.Is(err, strconv.ErrRange) {
			message = "is out of range"
		}
	case reflect.String:
		if message = "must be a string"; value[0] == '"' {
			var text string
			_ = json.Unmarshal(value, &text)
			field.SetString(text)
			if message = "must not contain the character U+0000"; !strings.Contains(text, "\x00") {
				return nil
			}
		}
	default:
		return decodeOther(field, name, value)
	}
	return []FieldError{{name, message}}
}

// decodeOwn leaves a value to its type, which knows best what is wrong with it.
func decodeOwn(target json.Unmarshaler, name string, value json.RawMessage) []FieldError {
	if wrong := doubledWithin(name, value); wrong != nil {
		return wrong
	}
	if err := target.UnmarshalJSON(value); err != nil {
		return []FieldError{{name, err.Error()}}
	}
	return nil
}

// decodeOther leaves a value to encoding/json, once no name in it is there twice.
func decodeOther(field reflect.Value, name string, value json.RawMessage) []FieldError {
	if wrong := doubledWithin(name, value); wrong != nil {
		return wrong
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	err := d.Decode(field.Addr().Interface())
	if err == nil {
		return nil
	}
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if mismatch.Field != "" {
			name += "." + mismatch.Field
		}
		return []FieldError{{name, "must not be a " + mismatch.Value}}
	}
	if unknown, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return []FieldError{{name, "holds the unknown field " + unknown}}
	}
	return []FieldError{{name, "has the wrong form"}}
}

func doubledWithin(name string, value json.RawMessage) (wrong []FieldError) {
	switch value[0] {
	case '{':
		names, raw, doubled := members(value)
		for _, inner := range doubled {
			wrong = append(wrong, FieldError{name + "." + inner, "is there twice"})
		}
		for _, inner := range names {
			wrong = append(wrong, doubledWithin(name+"."+inner, raw[inner])...)
		}
	case '[':
		var items []json.RawMessage
		_ = json.Unmarshal(value, &items)
		for i, item := range items {
			if item[0] != '{' && item[0] != '[' { // most lists are long and flat
				continue
			}
			wrong = append(wrong, doubledWithin(fmt.Sprintf("%s[%d]", name, i), item)...)
		}
	}
	return wrong
}
