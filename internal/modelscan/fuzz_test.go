package modelscan_test

import (
	"encoding/json"
	"errors"
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
		f.Add(seed, uint16(3))
	}
	f.Fuzz(func(t *testing.T, body string, size uint16) {
		model, err := modelscan.Find("application/json", []byte(body))
		if part, partErr := modelscan.Find("application/json", []byte(body[:min(len(body), int(size))])); partErr == nil && (err != nil || part != model) {
			t.Errorf("model %q in the first %d bytes, but %q (error %v) in the whole body", part, size, model, err)
		}
		want, wantErr, ok := reference(body)
		if ok && depth(body) <= 1000 && (model != want || !errors.Is(err, wantErr)) {
			t.Errorf("model %q, error %v; want %q, %v", model, err, want, wantErr)
		}
	})
}

// reference finds the first top-level model with encoding/json. ok is false if the body
// is not a valid object.
func reference(body string) (model string, err error, ok bool) { //nolint:revive,staticcheck // err is one of the results that a test expects
	if !json.Valid([]byte(body)) || !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{") {
		return "", nil, false
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
			return "", nil, true
		case raw[0] != '"' || len(raw) > modelscan.MaxModel+2:
			return "", modelscan.ErrNoString, true
		}
		_ = json.Unmarshal(raw, &model)
		return model, nil, true
	}
	return "", nil, true
}

// depth returns an upper bound of the body's nesting.
func depth(body string) int { return strings.Count(body, "[") + strings.Count(body, "{") }
