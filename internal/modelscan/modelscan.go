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

// What can be wrong with a body, as far as it was looked at.
var (
	// ErrSyntax: up to the model it is no JSON object, or no multipart form.
	ErrSyntax = errors.New("malformed body")
	// ErrTooLarge: the limit came before the model.
	ErrTooLarge = errors.New("no model within the limit")

	// errIncomplete: what was read ends before the model does.
	errIncomplete = fmt.Errorf("%w: it ends too early", ErrSyntax)
)

// Kind says what a body has as its model.
type Kind int

// The kinds of model. A form field is always text.
const (
	Missing Kind = iota // the body has no model
	Null                // null
	Text                // a string, perhaps empty
	Invalid             // a number, an array and so on, or a string longer than MaxModel
)

// Result is what Find found, and what it read to find it.
type Result struct {
	Kind  Kind
	Model string // valid UTF-8 if the body was JSON; empty unless Kind is Text

	read []byte
	err  error // what ended reading
}

// Find looks for the model in body. It reads at most limit bytes to find it,
// and one more to learn whether the body is longer. A contentType of
// multipart/form-data makes body a form, any other (or none) a JSON object.
//
// The Result is never nil, and its Restore must be called whatever the error:
// ErrSyntax or ErrTooLarge, wrapped, or what reading returned.
func Find(contentType string, body io.Reader, limit int64) (*Result, error) {
	scan := findInJSON
	if mediaType, params, _ := mime.ParseMediaType(contentType); mediaType == "multipart/form-data" {
		scan = func(data []byte) (Kind, string, error) { return findInForm(data, params["boundary"]) }
	}
	r := &Result{}
	for scanned := 0; ; {
		r.readMore(body, limit)
		// Each scan starts from the beginning, so wait until there is much more
		// to look at.
		if r.err == nil && len(r.read) < 8*scanned && int64(len(r.read)) <= limit {
			continue
		}
		scanned = len(r.read)
		var err error
		r.Kind, r.Model, err = scan(r.read[:max(0, min(int64(scanned), limit))])
		switch {
		case err == nil:
			return r, nil
		case !errors.Is(err, errIncomplete):
		case int64(scanned) > limit:
			err = ErrTooLarge
		case r.err == nil:
			continue
		case r.err != io.EOF: //nolint:errorlint // io.Reader's contract
			err = r.err
		}
		return r, fmt.Errorf("modelscan: %w", err)
	}
}

// readMore reads once, at most one byte beyond the limit.
func (r *Result) readMore(body io.Reader, limit int64) {
	if len(r.read) == cap(r.read) {
		grown := make([]byte, len(r.read), max(2*cap(r.read), 4<<10))
		copy(grown, r.read)
		r.read = grown
	}
	free := r.read[len(r.read):cap(r.read)]
	if left := limit - int64(len(r.read)); int64(len(free)) > left {
		free = free[:max(left+1, 0)]
	}
	if len(free) == 0 {
		return
	}
	for range 100 {
		n, err := body.Read(free)
		r.read, r.err = r.read[:len(r.read)+n], err
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}

// Restore returns the whole body: what Find read, then the rest of body, with
// the end or the error that Find met, if it did. Closing it closes body. Call
// it once.
func (r *Result) Restore(body io.ReadCloser) io.ReadCloser {
	var rest io.Reader = body
	if r.err != nil {
		rest = failedReader{r.err}
	}
	read := bytes.NewReader(r.read)
	r.read = nil
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(read, rest), body}
}

// failedReader reads nothing and returns its error.
type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// findInForm looks for the model's field in data, the beginning of a form. It
// may stand before, between or after the files.
func findInForm(data []byte, boundary string) (Kind, string, error) {
	if boundary == "" {
		return Missing, "", fmt.Errorf("%w: the form has no boundary", ErrSyntax)
	}
	rest := bytes.NewReader(data)
	fail := func(err error) (Kind, string, error) {
		if rest.Len() == 0 { // package multipart reports a header that is cut off in many ways
			return Missing, "", errIncomplete
		}
		return Missing, "", fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	parts := multipart.NewReader(rest, boundary)
	for {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF) && bytes.Contains(data, []byte("--"+boundary+"--")):
			return Missing, "", nil
		case err != nil:
			return fail(err)
		case part.FormName() != "model" || part.FileName() != "":
			continue
		}
		model, err := io.ReadAll(io.LimitReader(part, MaxModel+1))
		switch {
		case len(model) > MaxModel:
			return Invalid, "", nil
		case err != nil:
			return fail(err)
		}
		return Text, string(model), nil
	}
}
