package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

const limit = 8 << 10

type settings struct {
	IsEnabled bool    `json:"is_enabled"`
	Duration  int     `json:"session_duration"`
	Note      *string `json:"note"`
	Plan      *plan   `json:"plan"`
	Users     *[]any  `json:"users"`
}

type plan struct {
	Stages []struct {
		Percentage float64 `json:"percentage"`
	} `json:"stages"`
}

func put(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPut, "/settings", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func ExampleDecode() {
	var body struct {
		IsEnabled bool `json:"is_enabled"`       // required
		Duration  *int `json:"session_duration"` // nil when absent
	}
	err := problem.Decode(put(`{"session_duration":3600.0,"x":1}`), 4<<10, &body)
	fmt.Println(strings.ReplaceAll(err.Error(), "; ", "\n"))
	// Output:
	// 400 Bad Request: Some fields are invalid.
	// is_enabled: is required
	// session_duration: must be a whole number, written without point, exponent or quotes
	// x: is unknown
}

func TestDecode_DecodesValidBodies(t *testing.T) {
	note, users := "né\u2028\\", []any{1.0, "2", nil}
	for name, tt := range map[string]struct {
		body string
		want settings
	}{
		"required fields":      {`{"is_enabled":true,"session_duration":3600}`, settings{IsEnabled: true, Duration: 3600}},
		"in any order, spaced": {" \n{ \"session_duration\" : -5 ,\t\"is_enabled\":false } \r\n", settings{Duration: -5}},
		"with an escaped name": {`{"is_enable\u0064":true,"session_duration":0}`, settings{IsEnabled: true}},
		"all fields": {
			`{"is_enabled":true,"session_duration":1,"note":"n\u00e9\u2028\\","plan":{"stages":[{"percentage":0.5}]},"users":[1,"2",null]}`,
			settings{IsEnabled: true, Duration: 1, Note: &note, Users: &users, Plan: &plan{Stages: []struct {
				Percentage float64 `json:"percentage"`
			}{{0.5}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got settings
			if err := problem.Decode(put(tt.body), limit, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecode_NamesTheInvalidFields(t *testing.T) {
	const valid = `"is_enabled":true,"session_duration":3600`
	const whole = "must be a whole number, written without point, exponent or quotes"
	long := strings.Repeat("é", 100)
	for name, tt := range map[string]struct {
		body string
		want []problem.FieldError
	}{
		"all missing":             {`{}`, []problem.FieldError{{"is_enabled", "is required"}, {"session_duration", "is required"}}},
		"one missing":             {`{"is_enabled":true}`, []problem.FieldError{{"session_duration", "is required"}}},
		"unknown":                 {`{` + valid + `,"a":1,"":{}}`, []problem.FieldError{{"a", "is unknown"}, {`""`, "is unknown"}}},
		"another letter case":     {`{"Is_Enabled":true,"session_duration":1}`, []problem.FieldError{{"is_enabled", "is required"}, {"Is_Enabled", "is unknown"}}},
		"a long name":             {`{` + valid + `,"` + long + `":1}`, []problem.FieldError{{long[:76] + "…", "is unknown"}}},
		"twice":                   {`{` + valid + `,"is_enabled":true,"is_enabled":true}`, []problem.FieldError{{"is_enabled", "is duplicated"}}},
		"twice, once escaped":     {`{` + valid + `,"is_\u0065nabled":false}`, []problem.FieldError{{"is_enabled", "is duplicated"}}},
		"null":                    {`{"is_enabled":null,"session_duration":null,"note":null,"plan":null}`, nulls("is_enabled", "session_duration", "note", "plan")},
		"text for a bool":         {`{"is_enabled":"true","session_duration":1}`, []problem.FieldError{{"is_enabled", "must be true or false"}}},
		"a number for a bool":     {`{"is_enabled":1,"session_duration":1}`, []problem.FieldError{{"is_enabled", "must be true or false"}}},
		"a point":                 {`{"is_enabled":true,"session_duration":3600.0}`, []problem.FieldError{{"session_duration", whole}}},
		"an exponent":             {`{"is_enabled":true,"session_duration":1e3}`, []problem.FieldError{{"session_duration", whole}}},
		"a number in quotes":      {`{"is_enabled":true,"session_duration":"3600"}`, []problem.FieldError{{"session_duration", whole}}},
		"a bool for a number":     {`{"is_enabled":true,"session_duration":true}`, []problem.FieldError{{"session_duration", whole}}},
		"a list for a number":     {`{"is_enabled":true,"session_duration":[1]}`, []problem.FieldError{{"session_duration", whole}}},
		"a number out of range":   {`{"is_enabled":true,"session_duration":9223372036854775808}`, []problem.FieldError{{"session_duration", "is out of range"}}},
		"a number for text":       {`{` + valid + `,"note":1}`, []problem.FieldError{{"note", "must be a string"}}},
		"a zero byte":             {`{` + valid + `,"note":"a\u0000"}`, []problem.FieldError{{"note", "must not contain the character U+0000"}}},
		"within: the wrong type":  {`{` + valid + `,"plan":{"stages":[{"percentage":"x"}]}}`, []problem.FieldError{{"plan.stages[0].percentage", "must be a number"}}},
		"within: text for a list": {`{` + valid + `,"users":"x"}`, []problem.FieldError{{"users", "must be a list"}}},
		"within: unknown":         {`{` + valid + `,"plan":{"x":1}}`, []problem.FieldError{{"plan.stages", "is required"}, {"plan.x", "is unknown"}}},
		"within: twice":           {`{` + valid + `,"plan":{"stages":[{"percentage":1,"percentage":2}],"stages":[]}}`, []problem.FieldError{{"plan.stages[0].percentage", "is duplicated"}, {"plan.stages", "is duplicated"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var dst settings
			p := decodeProblem(t, put(tt.body), &dst)
			if p.Status != http.StatusBadRequest {
				t.Errorf("%v, want status 400", p)
			}
			if diff := cmp.Diff(tt.want, p.Errors); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	t.Run("at most twenty", func(t *testing.T) {
		var many strings.Builder
		for i := range 100 {
			fmt.Fprintf(&many, `,"x%d":1`, i)
		}
		if p := decodeProblem(t, put("{"+valid+many.String()+"}"), &settings{}); len(p.Errors) != 20 {
			t.Errorf("%d errors, want 20", len(p.Errors))
		}
	})
	t.Run("UnmarshalJSON's error", func(t *testing.T) {
		var dst struct {
			Address picky `json:"address"`
		}
		if p := decodeProblem(t, put(`{"address":{}}`), &dst); p.Errors[0].Message != "must be green" {
			t.Errorf("%v, want the message %q", p, "must be green")
		}
	})
}

// picky rejects every value.
type picky struct{}

func (*picky) UnmarshalJSON([]byte) error { return errors.New("must be green") }

func nulls(names ...string) (all []problem.FieldError) {
	for _, name := range names {
		all = append(all, problem.FieldError{Field: name, Message: "must not be null"})
	}
	return all
}

// decodeProblem calls Decode and returns the problem that it has to return.
func decodeProblem(t *testing.T, r *http.Request, dst any) *problem.Problem {
	t.Helper()
	err := problem.Decode(r, limit, dst)
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		t.Fatalf("Decode returned %v and decoded %+v, want a *Problem", err, dst)
	}
	return p
}

func TestDecode_RejectsBodiesThatAreNotOneObject(t *testing.T) {
	for name, tt := range map[string]struct {
		body   string
		detail string
	}{
		"empty":                        {"", "The body is empty (line 1, column 1)."},
		"incomplete":                   {`{"is_enabled":"tr`, "The body is not valid JSON: unexpected end of JSON input (line 1, column 17)."},
		"trailing data":                {`{} {}`, "The body is not valid JSON: invalid character '{' after top-level value (line 1, column 4)."},
		"not UTF-8":                    {"{\"note\":\"\xff\"}", "The body is not valid UTF-8 (line 1, column 10)."},
		"a list":                       {`[{}]`, "The body must be an object (line 1, column 1)."},
		"null":                         {`null`, "The body must not be null (line 1, column 1)."},
		"nested too deeply":            {`{"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, "The body is nested too deeply (line 1, column 21)."},
		"incomplete and deeply nested": {strings.Repeat("[", limit), "The body is not valid JSON: unexpected end of JSON input (line 1, column 8192)."},
		"an invalid literal":           {"{\n\"session_duration\":NaN}", "The body is not valid JSON: invalid character 'N' looking for beginning of value (line 2, column 20)."},
	} {
		t.Run(name, func(t *testing.T) {
			p := decodeProblem(t, put(tt.body), &settings{})
			if p.Status != http.StatusBadRequest || p.Detail != tt.detail || p.Errors != nil {
				t.Errorf("%v, want a 400 without fields and the detail %q", p, tt.detail)
			}
		})
	}
	t.Run("no body", func(t *testing.T) {
		r := put("")
		r.Body = nil
		if p := decodeProblem(t, r, &settings{}); p.Status != http.StatusBadRequest {
			t.Errorf("%v, want status 400", p)
		}
	})
	t.Run("a read error", func(t *testing.T) {
		cause := errors.New("reset by peer")
		r := put("")
		r.Body = io.NopCloser(iotest.ErrReader(cause))
		if p := decodeProblem(t, r, &settings{}); p.Status != http.StatusBadRequest || !errors.Is(p, cause) || strings.Contains(p.Detail, "peer") {
			t.Errorf("%v, want a 400 that wraps the read error and does not show it in the detail", p)
		}
	})
}

func TestDecode_BoundsTheBody(t *testing.T) {
	const body = `{"note":""}`
	var dst struct {
		Note string `json:"note"`
	}
	if err := problem.Decode(put(body), int64(len(body)), &dst); err != nil {
		t.Errorf("a body of the maximum length: %v", err)
	}
	chunked := put(body)
	chunked.ContentLength = -1
	bounded := put(body)
	bounded.Body = http.MaxBytesReader(nil, bounded.Body, 3)
	for name, tt := range map[string]struct {
		r     *http.Request
		limit int64
	}{
		"of a known length":    {put(body), int64(len(body)) - 1},
		"of an unknown length": {chunked, int64(len(body)) - 1},
		"bounded by the host":  {bounded, limit},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := errors.AsType[*problem.Problem](problem.Decode(tt.r, tt.limit, &dst))
			if !ok || p.Status != http.StatusRequestEntityTooLarge {
				t.Errorf("%v, want a problem with status 413", p)
			}
		})
	}
}

func TestDecode_ChecksTheMediaType(t *testing.T) {
	for contentType, accepted := range map[string]bool{
		"":                                  true,
		"application/json":                  true,
		"Application/JSON; charset=UTF-8":   true,
		"application/json; charset=latin1":  false,
		"application/json; charset=\"\"":    false,
		"application/merge-patch+json":      false,
		"text/plain":                        false,
		"application/x-www-form-urlencoded": false,
		"nonsense;;":                        false,
	} {
		r := put(`{"is_enabled":true,"session_duration":1}`)
		r.Header.Set("Content-Type", contentType)
		err := problem.Decode(r, limit, &settings{})
		p, rejected := errors.AsType[*problem.Problem](err)
		if rejected == accepted {
			t.Errorf("Content-Type %q: error %v, want that it is accepted: %v", contentType, err, accepted)
		}
		if rejected && p.Status != http.StatusUnsupportedMediaType {
			t.Errorf("Content-Type %q: status %d, want 415", contentType, p.Status)
		}
	}
	patch := put(`{"is_enabled":true,"session_duration":1}`)
	patch.Method = http.MethodPatch
	patch.Header.Set("Content-Type", "application/merge-patch+json")
	if err := problem.Decode(patch, limit, &settings{}); err != nil {
		t.Errorf("a PATCH with application/merge-patch+json: %v", err)
	}
	for encoding, accepted := range map[string]bool{"identity": true, "gzip": false} {
		r := put(`{"is_enabled":true,"session_duration":1}`)
		r.Header.Set("Content-Encoding", encoding)
		if err := problem.Decode(r, limit, &settings{}); (err == nil) != accepted {
			t.Errorf("Content-Encoding %q: error %v, want that it is accepted: %v", encoding, err, accepted)
		}
	}
}

// FuzzDecode checks that encoding/json decodes every accepted body to the same value,
// and that every other body leads to a problem of at most 8 KiB with a status of 400 or 413.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"is_enabled":true,"session_duration":3600}`, `{"is_enabled":true,"session_duration":1e3,"note":"\u0000"}`,
		`{"is_enabled":true,"is_enabled":false}`, `{"plan":{"stages":[{"percentage":1}]}}`, `{"users":[[[]]],"note":null}`,
		`{}x`, `[]`, ``, "{\"\xff\":1}", `{"session_duration":-0}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var got, want settings
		err := problem.Decode(put(body), limit, &got)
		if err != nil {
			p, ok := errors.AsType[*problem.Problem](err)
			if !ok || p.Status != http.StatusBadRequest && p.Status != http.StatusRequestEntityTooLarge {
				t.Fatalf("error %v, want a problem with status 400 or 413", err)
			}
			if text, err := json.Marshal(p); err != nil || len(text) > 8<<10 {
				t.Fatalf("the problem has %d bytes, error %v; want at most 8 KiB", len(text), err)
			}
			return
		}
		d := json.NewDecoder(strings.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("accepted a body that encoding/json rejects: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-encoding/json +problem)\n%s", diff)
		}
	})
}
