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
	// 400 Bad Request: Some fields are not as they should be.
	// is_enabled: is required
	// session_duration: must be a whole number, written without point, exponent or quotes
	// x: is unknown
}

func TestDecode_ReadsWhatIsExactlyMeant(t *testing.T) {
	note, users := "né\u2028\\", []any{1.0, "2", nil}
	for name, tt := range map[string]struct {
		body string
		want settings
	}{
		"what is required":     {`{"is_enabled":true,"session_duration":3600}`, settings{IsEnabled: true, Duration: 3600}},
		"in any order, spaced": {" \n{ \"session_duration\" : -5 ,\t\"is_enabled\":false } \r\n", settings{Duration: -5}},
		"with an escaped name": {`{"is_enable\u0064":true,"session_duration":0}`, settings{IsEnabled: true}},
		"with all that may be": {
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
				t.Error(diff)
			}
		})
	}
}

func TestDecode_NamesTheFieldsAtFault(t *testing.T) {
	const good = `"is_enabled":true,"session_duration":3600`
	const whole = "must be a whole number, written without point, exponent or quotes"
	long := strings.Repeat("é", 100)
	for name, tt := range map[string]struct {
		body string
		want []problem.FieldError
	}{
		"all missing":             {`{}`, []problem.FieldError{{"is_enabled", "is required"}, {"session_duration", "is required"}}},
		"one missing":             {`{"is_enabled":true}`, []problem.FieldError{{"session_duration", "is required"}}},
		"unknown":                 {`{` + good + `,"a":1,"":{}}`, []problem.FieldError{{"a", "is unknown"}, {`""`, "is unknown"}}},
		"another letter case":     {`{"Is_Enabled":true,"session_duration":1}`, []problem.FieldError{{"is_enabled", "is required"}, {"Is_Enabled", "is unknown"}}},
		"a long name":             {`{` + good + `,"` + long + `":1}`, []problem.FieldError{{long[:76] + "…", "is unknown"}}},
		"twice":                   {`{` + good + `,"is_enabled":true,"is_enabled":true}`, []problem.FieldError{{"is_enabled", "is there twice"}}},
		"twice, once escaped":     {`{` + good + `,"is_\u0065nabled":false}`, []problem.FieldError{{"is_enabled", "is there twice"}}},
		"null":                    {`{"is_enabled":null,"session_duration":null,"note":null,"plan":null}`, nulls("is_enabled", "session_duration", "note", "plan")},
		"text for a switch":       {`{"is_enabled":"true","session_duration":1}`, []problem.FieldError{{"is_enabled", "must be true or false"}}},
		"a number for a switch":   {`{"is_enabled":1,"session_duration":1}`, []problem.FieldError{{"is_enabled", "must be true or false"}}},
		"a point":                 {`{"is_enabled":true,"session_duration":3600.0}`, []problem.FieldError{{"session_duration", whole}}},
		"an exponent":             {`{"is_enabled":true,"session_duration":1e3}`, []problem.FieldError{{"session_duration", whole}}},
		"a number in quotes":      {`{"is_enabled":true,"session_duration":"3600"}`, []problem.FieldError{{"session_duration", whole}}},
		"a switch for a number":   {`{"is_enabled":true,"session_duration":true}`, []problem.FieldError{{"session_duration", whole}}},
		"a list for a number":     {`{"is_enabled":true,"session_duration":[1]}`, []problem.FieldError{{"session_duration", whole}}},
		"a number out of range":   {`{"is_enabled":true,"session_duration":9223372036854775808}`, []problem.FieldError{{"session_duration", "is out of range"}}},
		"a number for text":       {`{` + good + `,"note":1}`, []problem.FieldError{{"note", "must be a string"}}},
		"a zero byte":             {`{` + good + `,"note":"a\u0000"}`, []problem.FieldError{{"note", "must not contain the character U+0000"}}},
		"within: the wrong type":  {`{` + good + `,"plan":{"stages":[{"percentage":"x"}]}}`, []problem.FieldError{{"plan.stages[0].percentage", "must be a number"}}},
		"within: text for a list": {`{` + good + `,"users":"x"}`, []problem.FieldError{{"users", "must be a list"}}},
		"within: unknown":         {`{` + good + `,"plan":{"x":1}}`, []problem.FieldError{{"plan.stages", "is required"}, {"plan.x", "is unknown"}}},
		"within: twice":           {`{` + good + `,"plan":{"stages":[{"percentage":1,"percentage":2}],"stages":[]}}`, []problem.FieldError{{"plan.stages[0].percentage", "is there twice"}, {"plan.stages", "is there twice"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var dst settings
			p := refused(t, put(tt.body), &dst)
			if p.Status != http.StatusBadRequest {
				t.Error(p)
			}
			if diff := cmp.Diff(tt.want, p.Errors); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("not without end", func(t *testing.T) {
		var many strings.Builder
		for i := range 100 {
			fmt.Fprintf(&many, `,"x%d":1`, i)
		}
		if p := refused(t, put("{"+good+many.String()+"}"), &settings{}); len(p.Errors) != 20 {
			t.Errorf("%d errors", len(p.Errors))
		}
	})
	t.Run("a form of its own", func(t *testing.T) {
		var dst struct {
			Address picky `json:"address"`
		}
		if p := refused(t, put(`{"address":{}}`), &dst); p.Errors[0].Message != "must be green" {
			t.Error(p)
		}
	})
}

// picky refuses to be unmarshalled, and says why.
type picky struct{}

func (*picky) UnmarshalJSON([]byte) error { return errors.New("must be green") }

func nulls(names ...string) (all []problem.FieldError) {
	for _, name := range names {
		all = append(all, problem.FieldError{Field: name, Message: "must not be null"})
	}
	return all
}

// refused decodes, and expects a problem.
func refused(t *testing.T, r *http.Request, dst any) *problem.Problem {
	t.Helper()
	err := problem.Decode(r, limit, dst)
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		t.Fatalf("no problem: %v, %+v", err, dst)
	}
	return p
}

func TestDecode_RefusesBodiesThatAreNoObject(t *testing.T) {
	for name, tt := range map[string]struct {
		body   string
		detail string
	}{
		"empty":                             {"", "The body is empty (line 1, column 1)."},
		"cut off":                           {`{"is_enabled":"tr`, "The body is not valid JSON: unexpected end of JSON input (line 1, column 17)."},
		"trailing data":                     {`{} {}`, "The body is not valid JSON: invalid character '{' after top-level value (line 1, column 4)."},
		"no UTF-8":                          {"{\"note\":\"\xff\"}", "The body is not valid UTF-8 (line 1, column 10)."},
		"a list":                            {`[{}]`, "The body must be an object (line 1, column 1)."},
		"null":                              {`null`, "The body must not be null (line 1, column 1)."},
		"nested too deeply":                 {`{"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, "The body is nested too deeply (line 1, column 21)."},
		"as deep as it may be, and cut off": {strings.Repeat("[", limit), "The body is not valid JSON: unexpected end of JSON input (line 1, column 8192)."},
		"a word that is no number":          {"{\n\"session_duration\":NaN}", "The body is not valid JSON: invalid character 'N' looking for beginning of value (line 2, column 20)."},
	} {
		t.Run(name, func(t *testing.T) {
			p := refused(t, put(tt.body), &settings{})
			if p.Status != http.StatusBadRequest || p.Detail != tt.detail || p.Errors != nil {
				t.Error(p)
			}
		})
	}
	t.Run("none at all", func(t *testing.T) {
		r := put("")
		r.Body = nil
		if p := refused(t, r, &settings{}); p.Status != http.StatusBadRequest {
			t.Error(p)
		}
	})
	t.Run("that cannot be read", func(t *testing.T) {
		cause := errors.New("reset by peer")
		r := put("")
		r.Body = io.NopCloser(iotest.ErrReader(cause))
		if p := refused(t, r, &settings{}); p.Status != http.StatusBadRequest || !errors.Is(p, cause) || strings.Contains(p.Detail, "peer") {
			t.Error(p)
		}
	})
}

func TestDecode_BoundsTheBody(t *testing.T) {
	const body = `{"note":""}`
	var dst struct {
		Note string `json:"note"`
	}
	if err := problem.Decode(put(body), int64(len(body)), &dst); err != nil {
		t.Error("as long as may be:", err)
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
				t.Error(p)
			}
		})
	}
}

func TestDecode_ChecksTheMediaType(t *testing.T) {
	for contentType, ok := range map[string]bool{
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
		if p, refused := errors.AsType[*problem.Problem](err); refused == ok || refused && p.Status != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %v", contentType, err)
		}
	}
	patch := put(`{"is_enabled":true,"session_duration":1}`)
	patch.Method = http.MethodPatch
	patch.Header.Set("Content-Type", "application/merge-patch+json")
	if err := problem.Decode(patch, limit, &settings{}); err != nil {
		t.Errorf("a PATCH: %v", err)
	}
	for encoding, ok := range map[string]bool{"identity": true, "gzip": false} {
		r := put(`{"is_enabled":true,"session_duration":1}`)
		r.Header.Set("Content-Encoding", encoding)
		if err := problem.Decode(r, limit, &settings{}); (err == nil) != ok {
			t.Errorf("%q: %v", encoding, err)
		}
	}
}

// FuzzDecode holds what is accepted against encoding/json, and what is refused
// against the promise that it is a problem which can be sent.
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
				t.Fatal(err)
			}
			if text, err := json.Marshal(p); err != nil || len(text) > 8<<10 {
				t.Fatalf("%d bytes of problem: %v", len(text), err)
			}
			return
		}
		d := json.NewDecoder(strings.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
