package modelscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
)

// MaxModel is the maximum length of a model in bytes. In JSON an escape counts with
// all its characters.
const MaxModel = 1024

// Errors of a body without a usable model.
var (
	// ErrSyntax: the body is malformed before the end of its model.
	ErrSyntax = errors.New("malformed body")
	// ErrIncomplete wraps ErrSyntax: the data ends before the end of the model.
	ErrIncomplete = fmt.Errorf("%w: it ends too early", ErrSyntax)
	// ErrNoString: the model is not a string, or is longer than MaxModel.
	ErrNoString = errors.New("the model is not a string of at most 1024 bytes")
)

// Find returns the model in data, which is a body or the beginning of one. It returns
// "" if the model is null or a complete body has none. If contentType is
// multipart/form-data, data is a form; otherwise it is a JSON object, and the model is
// valid UTF-8.
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

// findInForm looks for the field "model" in data, the beginning of a form. The field
// may come before, between or after the files.
func findInForm(data []byte, boundary string) (string, error) {
	if boundary == "" {
		return "", fmt.Errorf("%w: the form has no boundary", ErrSyntax)
	}
	rest := bytes.NewReader(data)
	fail := func(err error) (string, error) {
		if rest.Len() == 0 { // an incomplete header has several errors in package multipart
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
