package modelscan

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
)

// MaxModel is the longest model in bytes, as the body spells it (escapes count
// as written).
const MaxModel = 1024

// What can be wrong with a body, as far as it was looked at.
var (
	// ErrSyntax: it is no JSON object, or no multipart form, up to the model.
	ErrSyntax = errors.New("malformed body")
	// ErrTooLarge: the limit came before the model.
	ErrTooLarge = errors.New("no model within the limit")
)

// Kind says what stands where the model should.
type Kind int

// The kinds of model. A form field is always text.
const (
	Missing Kind = iota // the body has no model
	Null                // null
	Text                // a string, perhaps empty
	Invalid             // a number, a list and so on, or a string longer than MaxModel
)

// Result is what Find found, and what it read to find it.
type Result struct {
	Kind  Kind
	Model string // valid UTF-8 if the body was JSON; empty unless Kind is Text

	tape *tape
}

// Find looks for the model in body and reads at most limit bytes to find it,
// and one to know that there are more. A contentType of multipart/form-data
// makes body a form, any other (or none) a JSON object.
//
// The Result is never nil, and its Restore is due whatever the error: one of
// ErrSyntax and ErrTooLarge, wrapped, or what reading returned.
func Find(contentType string, body io.Reader, limit int64) (*Result, error) {
	found := &Result{tape: &tape{source: body, limit: limit}}
	var err error
	if mediaType, params, _ := mime.ParseMediaType(contentType); mediaType == "multipart/form-data" {
		err = found.form(params["boundary"])
	} else {
		err = (&scanner{tape: found.tape}).object(found)
	}
	if err != nil {
		return found, fmt.Errorf("modelscan: %w", err)
	}
	return found, nil
}

// Restore returns the whole body: what Find read, then the rest of body, with
// the end or the error that Find met, if it did. It closes body. Reading
// it frees the memory bit by bit. Call it once.
func (r *Result) Restore(body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{r.tape.replay(body), body}
}

// form finds the field in a form, wherever it stands among the files.
func (r *Result) form(boundary string) error {
	if boundary == "" {
		return fmt.Errorf("the form has no boundary: %w", ErrSyntax)
	}
	parts := multipart.NewReader(r.tape, boundary)
	for {
		part, err := parts.NextPart()
		if err == io.EOF { //nolint:errorlint // wrapped, it is the end of a form that was cut off
			return nil
		}
		if err != nil {
			return r.tape.blame(err)
		}
		if part.FormName() != "model" || part.FileName() != "" {
			continue
		}
		model, err := io.ReadAll(io.LimitReader(part, MaxModel+1))
		if err != nil {
			return r.tape.blame(err)
		}
		if len(model) > MaxModel {
			r.Kind = Invalid
			return nil
		}
		r.Kind, r.Model = Text, string(model)
		return nil
	}
}
