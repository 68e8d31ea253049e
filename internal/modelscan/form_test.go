package modelscan_test

import (
	"bytes"
	"errors"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

// formBody is the form of a transcription: a file of size bytes, then the fields.
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
		if found, err := find(t, contentType, body, noLimit); err != nil || found.Kind != modelscan.Text || found.Model != "whisper-1" {
			t.Error(found.Kind, found.Model, err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		body, contentType := formBody(t, "", 10)
		if found, err := find(t, contentType, body, noLimit); err != nil || found.Kind != modelscan.Missing {
			t.Error(found.Kind, err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		body, contentType := formBody(t, strings.Repeat("x", modelscan.MaxModel+1), 10)
		if found, err := find(t, contentType, body, noLimit); err != nil || found.Kind != modelscan.Invalid {
			t.Error(found.Kind, err)
		}
	})
	t.Run("beyond the limit", func(t *testing.T) {
		body, contentType := formBody(t, "whisper-1", 1<<20)
		if _, err := find(t, contentType, body, 1<<19); !errors.Is(err, modelscan.ErrTooLarge) {
			t.Error(err)
		}
	})
	t.Run("cut off", func(t *testing.T) {
		body, contentType := formBody(t, "whisper-1", 10)
		for at := range strings.Index(body, "whisper-1") + len("whisper-1") {
			if _, err := find(t, contentType, body[:at], noLimit); !errors.Is(err, modelscan.ErrSyntax) {
				t.Errorf("at %d: %v", at, err)
			}
		}
	})
	t.Run("a file called model does not count", func(t *testing.T) {
		var out bytes.Buffer
		w := multipart.NewWriter(&out)
		file, _ := w.CreateFormFile("model", "model.txt")
		_, _ = file.Write([]byte("x"))
		_ = w.Close()
		if found, err := find(t, w.FormDataContentType(), out.String(), noLimit); err != nil || found.Kind != modelscan.Missing {
			t.Error(found.Kind, err)
		}
	})
	t.Run("without a boundary", func(t *testing.T) {
		if _, err := find(t, "multipart/form-data", "x", noLimit); !errors.Is(err, modelscan.ErrSyntax) {
			t.Error(err)
		}
	})
}
