package modelscan_test

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

// FuzzFind compares Find with encoding/json.
func FuzzFind(f *testing.F) {
	for _, seed := range []string{
		`{"model":"m"}`, `{"x":[{"model":"a"},"\\\""],"mod\u0065l":"\ud83d"}`, `{"model":null}`, `{"model":[1]}`,
		`{"x":-1.0E+2,"model":"b","model":"c"}`, `{"\\":"\\","model":""}`, `{"x"`, `[]`, ``, "\xEF\xBB\xBF{}", "{\"mo\xff\":{}}",
	} {
		f.Add(seed, uint8(3))
	}
	f.Fuzz(func(t *testing.T, body string, size uint8) {
		source := io.NopCloser(&chunked{strings.NewReader(body), int(size)%7 + 1})
		found, err := modelscan.Find("application/json", source, noLimit)
		whole, readErr := io.ReadAll(found.Restore(source))
		if string(whole) != body || readErr != nil {
			t.Fatalf("came back as %q, %v", whole, readErr)
		}
		kind, model, ok := reference(body)
		if !ok || depth(body) > 1000 {
			return
		}
		if err != nil || found.Kind != kind || found.Model != model {
			t.Errorf("got %v %q %v, want %v %q", found.Kind, found.Model, err, kind, model)
		}
	})
}

// reference finds the first top-level model of a valid object by encoding/json.
func reference(body string) (kind modelscan.Kind, model string, ok bool) {
	if !json.Valid([]byte(body)) || !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{") {
		return 0, "", false
	}
	d := json.NewDecoder(strings.NewReader(body))
	_, _ = d.Token()
	for d.More() {
		name, _ := d.Token()
		var raw json.RawMessage
		_ = d.Decode(&raw)
		switch {
		case name != "model":
			continue
		case raw[0] == 'n':
			return modelscan.Null, "", true
		case raw[0] != '"' || len(raw) > modelscan.MaxModel+2:
			return modelscan.Invalid, "", true
		}
		_ = json.Unmarshal(raw, &model)
		return modelscan.Text, model, true
	}
	return modelscan.Missing, "", true
}

func depth(body string) int { return strings.Count(body, "[") + strings.Count(body, "{") }

// chunked reads at most size bytes at once.
type chunked struct {
	r    io.Reader
	size int
}

func (c *chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.size)]) }
