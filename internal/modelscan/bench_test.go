package modelscan_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

// benchmarkBodies returns bodies of 10 MB by the position of the model and the kind of
// the content.
func benchmarkBodies() map[string]string {
	prose := "She said:\n\t\"The path is C:\\temp, isn't it?\" Then they talked for a long while.\n"
	messages := func(content string) string {
		text, _ := json.Marshal(content)
		message := `{"role":"user","content":` + string(text) + `},`
		return `"messages":[` + strings.Repeat(message, 10<<20/len(message)) + `{}]`
	}
	text := messages(strings.Repeat(prose, 20))
	image, _ := json.Marshal("data:image/png;base64," + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("pixels"), 10<<20/8)))
	tokens := `"input":[` + strings.Repeat("12345,", 10<<20/6) + `0]`
	return map[string]string{
		"first":                `{"model":"llama",` + text + `}`,
		"after long texts":     `{` + text + `,"model":"llama"}`,
		"after short messages": `{` + messages("Hello, how are you?") + `,"model":"llama"}`,
		"after an image":       `{"messages":[{"role":"user","content":[{"image_url":{"url":` + string(image) + `}}]}],"model":"llama"}`,
		"after integers":       `{` + tokens + `,"model":"llama"}`,
	}
}

func BenchmarkFind(b *testing.B) {
	methods := []struct {
		name string
		find func(body io.Reader, size int) (string, error)
	}{
		{"find", func(body io.Reader, size int) (string, error) {
			text := make([]byte, size)
			if _, err := io.ReadFull(body, text); err != nil {
				return "", err
			}
			return modelscan.Find("application/json", text)
		}},
		{"unmarshal", func(body io.Reader, _ int) (string, error) {
			var v struct{ Model string }
			data, err := io.ReadAll(body)
			if err != nil {
				return "", err
			}
			err = json.Unmarshal(data, &v)
			return v.Model, err
		}},
		{"decoder", func(body io.Reader, _ int) (string, error) {
			d := json.NewDecoder(body)
			_, _ = d.Token()
			for d.More() {
				name, err := d.Token()
				if err != nil {
					return "", err
				}
				var raw json.RawMessage
				if err := d.Decode(&raw); err != nil {
					return "", err
				}
				if name == "model" {
					return string(raw[1 : len(raw)-1]), nil
				}
			}
			return "", io.EOF
		}},
	}
	for name, body := range benchmarkBodies() {
		for _, method := range methods {
			b.Run(name+"/"+method.name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if model, err := method.find(strings.NewReader(body), len(body)); err != nil || model != "llama" {
						b.Fatalf("model %q, error %v; want llama", model, err)
					}
				}
			})
		}
	}
}

func BenchmarkFind_Form(b *testing.B) {
	body, contentType := formBody(b, "whisper-1", 10<<20)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if model, err := modelscan.Find(contentType, []byte(body)); err != nil || model != "whisper-1" {
			b.Fatalf("model %q, error %v; want whisper-1", model, err)
		}
	}
}
