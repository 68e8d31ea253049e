package modelscan_test

import (
	"bytes"
	"errors"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

// formBody returns the form of a transcription: a file of size bytes, then the fields.
// Without a model it has no such field.
func formBody(t testing.TB, model string, size int) (body, contentType string) {
	t.Helper()
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	file, err := w.CreateFormFile("file", "speech.wav")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = file.Write(bytes.Repeat([]byte("\r\n--x"), size/5))
	_ = w.WriteField("language", "en")
	if model != "" {
		_ = w.WriteField("model", model)
	}
	_ = w.WriteField("temperature", "0")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String(), w.FormDataContentType()
}

func TestFind_LocatesTheModelInAForm(t *testing.T) {
	t.Run("after a big file", func(t *testing.T) {
		body, contentType := formBody(t, "whisper-1", 1<<20)
		if model, err := modelscan.Find(contentType, []byte(body)); err != nil || model != "whisper-1" {
			t.Errorf("model %q, error %v; want whisper-1", model, err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		body, contentType := formBody(t, "", 10)
		if model, err := modelscan.Find(contentType, []byte(body)); err != nil || model != "" {
			t.Errorf("model %q, error %v; want none", model, err)
		}
		checkPrefixes(t, contentType, body)
	})
	t.Run("too long", func(t *testing.T) {
		body, contentType := formBody(t, strings.Repeat("x", modelscan.MaxModel+1), 10)
		if _, err := modelscan.Find(contentType, []byte(body)); !errors.Is(err, modelscan.ErrNoString) {
			t.Errorf("error %v, want ErrNoString", err)
		}
	})
	t.Run("incomplete", func(t *testing.T) {
		body, contentType := formBody(t, "whisper-1", 10)
		checkPrefixes(t, contentType, body)
		for size := range strings.Index(body, "whisper-1") + len("whisper-1") {
			if _, err := modelscan.Find(contentType, []byte(body[:size])); !errors.Is(err, modelscan.ErrIncomplete) {
				t.Errorf("first %d bytes: error %v, want ErrIncomplete", size, err)
			}
		}
	})
	t.Run("a file called model does not count", func(t *testing.T) {
		var out bytes.Buffer
		w := multipart.NewWriter(&out)
		file, _ := w.CreateFormFile("model", "model.txt")
		_, _ = file.Write([]byte("x"))
		_ = w.Close()
		if model, err := modelscan.Find(w.FormDataContentType(), out.Bytes()); err != nil || model != "" {
			t.Errorf("model %q, error %v; want none", model, err)
		}
	})
	t.Run("without a boundary", func(t *testing.T) {
		if _, err := modelscan.Find("multipart/form-data", []byte("x")); !errors.Is(err, modelscan.ErrSyntax) {
			t.Errorf("error %v, want ErrSyntax", err)
		}
	})
}
