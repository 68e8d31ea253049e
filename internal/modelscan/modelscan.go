package modelscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
)

// MaxModel is the longest model in bytes, as the body spells it (escapes count
// as written).
const MaxModel = 1024

// Why a body has no model that can be used.
var (
	// ErrSyntax: up to the model it is no JSON object, or no multipart form.
	ErrSyntax = errors.New("malformed body")
	// ErrIncomplete, an ErrSyntax: it ends before the model does.
	ErrIncomplete = fmt.Errorf("%w: it ends too early", ErrSyntax)
	// ErrNoString: the model is a number, an array and so on, or a string longer
	// than MaxModel.
	ErrNoString = errors.New("the model is no string of at most 1024 bytes")
)

// Find returns the model in data, the beginning of a body or all of it: valid
// UTF-8 if it is JSON, or "" if it is null, or the whole body names none. A
// contentType of multipart/form-data makes data a form, any other (or none) a
// JSON object.
func Find(contentType string, data []byte) (string, error) {
	find := findInJSON
	if mediaType, params, _ := mime.ParseMediaType(contentType); mediaType == "multipart/form-data" {
		find = func(data []byte) (string, error) { return findInForm(data, params["boundary"]) }
	}
	model, err := find(data)
	if err != nil {
		return "", fmt.Errorf("modelscan: %w", err)
	}
	return model, nil
}

// findInForm looks for the model's field in data, the beginning of a form. It
// may stand before, between or after the files.
func findInForm(data []byte, boundary string) (string, error) {
	if boundary == "" {
		return "", fmt.Errorf("%w: the form has no boundary", ErrSyntax)
	}
	rest := bytes.NewReader(data)
	fail := func(err error) (string, error) {
		if rest.Len() == 0 { // package multipart reports a header that is cut off in many ways
			return "", ErrIncomplete
		}
		return "", fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	parts := multipart.NewReader(rest, boundary)
	for {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF) && bytes.Contains(data, []byte("--"+boundary+"--")):
			return "", nil
		case err != nil:
			return fail(err)
		case part.FormName() != "model" || part.FileName() != "":
			continue
		}
		model, err := io.ReadAll(io.LimitReader(part, MaxModel+1))
		switch {
		case len(model) > MaxModel:
			return "", ErrNoString
		case err != nil:
			return fail(err)
		}
		return string(model), nil
	}
}
