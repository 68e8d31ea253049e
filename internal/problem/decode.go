package problem

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/internal/strictjson"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

const (
	maxErrors = 20 // in one response
	maxText   = 80 // bytes of a field or message, which may repeat parts of the body
)

// Decode decodes the request's body, which must be one JSON object, into dst, a
// pointer to a struct, as [strictjson.Unmarshal] does. Its error is a *Problem:
//
//   - 415 for a Content-Type other than application/json in UTF-8 (for a PATCH
//     also application/merge-patch+json), or for a Content-Encoding; a body without a
//     Content-Type is read as JSON
//   - 413 for more than limit bytes
//   - 400 for a body that strictjson rejects, with the names of all invalid fields
//
// After an error dst must not be used.
func Decode(r *http.Request, limit int64, dst any) error {
	if err := checkMediaType(r); err != nil {
		return err
	}
	data, err := readBody(r, limit)
	if err != nil {
		return err
	}
	err = strictjson.Unmarshal(data, dst)
	errs, ok := errors.AsType[strictjson.Errors](err)
	if !ok {
		return err // nil: all errors of Unmarshal are Errors
	}
	if e := errs[0]; e.Field == "" {
		return New(http.StatusBadRequest, fmt.Sprintf("The body %s (line %d, column %d).", text.Truncate(e.Message, 2*maxText), e.Line, e.Column))
	}
	var fields []FieldError
	for _, e := range errs[:min(len(errs), maxErrors)] {
		fields = append(fields, FieldError{text.Truncate(e.Field, maxText), text.Truncate(e.Message, maxText)})
	}
	return Invalid(fields...)
}

func checkMediaType(r *http.Request) error {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return New(http.StatusUnsupportedMediaType, "Send the body without Content-Encoding.")
	}
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	charset, hasCharset := params["charset"]
	isJSON := mediaType == "application/json" || r.Method == http.MethodPatch && mediaType == "application/merge-patch+json"
	isUTF8 := !hasCharset || strings.EqualFold(charset, "utf-8")
	if err != nil || !isJSON || !isUTF8 {
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
		return nil, New(http.StatusBadRequest, "The body could not be read to its end.").WithCause(err)
	}
	return data, nil
}
