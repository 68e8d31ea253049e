package strictjson_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/MorpheusAIs/gateway-automation/internal/strictjson"
)

type plan struct {
	Stages []stage           `json:"stages"`
	Limit  float64           `json:"limit,omitzero"`
	Notice *string           `json:"notice"`
	Labels map[string]int8   `json:"labels,omitempty"`
	Extra  any               `json:"extra,omitzero"`
	Raw    json.RawMessage   `json:"raw,omitzero"`
	Since  *time.Time        `json:"since"` // an UnmarshalJSON
	Level  *level            `json:"level"` // an UnmarshalText
	Rules  *rules            `json:"rules"` // an UnmarshalJSON that calls strictjson
	Flat   map[string]string `json:"flat,omitempty"`
}

type stage struct {
	Name  string `json:"name"`
	Users []any  `json:"users,omitempty"`
	On    bool   `json:"on,omitzero"`
}

type level int

func (l *level) UnmarshalText(text []byte) error {
	if string(text) != "high" {
		return errors.New("must be high")
	}
	*l = 2
	return nil
}

type rules struct{ Size int }

func (r *rules) UnmarshalJSON(data []byte) error {
	var body struct {
		Size int `json:"size"`
	}
	if err := strictjson.Unmarshal(data, &body); err != nil {
		return err
	}
	r.Size = body.Size
	return nil
}

func ExampleUnmarshal() {
	var plan struct {
		Stages []struct {
			Name string  `json:"name"`
			Hold *string `json:"hold"` // nil when absent
		} `json:"stages"`
		Notice string `json:"notice,omitzero"` // may be absent
	}
	err := strictjson.Unmarshal([]byte(`{
	"stages": [
		{"name": "ten", "hold": 60},
		{"Name": "half"}
	],
	"notice": null
}`), &plan)
	fmt.Println(strings.ReplaceAll(err.Error(), "; ", "\n"))
	// Output:
	// line 3, column 27: stages[0].hold: must be a string
	// line 4, column 3: stages[1].name: is required
	// line 4, column 4: stages[1].Name: is unknown
	// line 6, column 12: notice: must not be null
}

func TestUnmarshal_DecodesValidText(t *testing.T) {
	t.Parallel()
	notice, since, high := "é\u2028\\🙂", time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC), level(2)
	for name, c := range map[string]struct {
		text string
		want plan
	}{
		"only required fields": {`{"stages":[]}`, plan{Stages: []stage{}}},
		"with white space":     {" \r\n{ \"stages\" :\t[ { \"name\" : \"a\" } ] } \n", plan{Stages: []stage{{Name: "a"}}}},
		"an escaped name":      {`{"st\u0061ges":[]}`, plan{Stages: []stage{}}},
		"all fields": {
			`{"stages":[{"name":"a","users":[1,"2",null,{"x":[]}],"on":true}],"limit":-0.5e1,"notice":"\u00e9\u2028\\\ud83d\ude42","labels":{"a":-128,"b.c":127},
			  "extra":null,"raw":{"any": [1]},"since":"2026-11-26T00:00:00Z","level":"high","rules":{"size":3},"flat":{}}`,
			plan{
				Stages: []stage{{"a", []any{1.0, "2", nil, map[string]any{"x": []any{}}}, true}}, Limit: -5, Notice: &notice, Labels: map[string]int8{"a": -128, "b.c": 127},
				Raw: json.RawMessage(`{"any": [1]}`), Since: &since, Level: &high, Rules: &rules{3}, Flat: map[string]string{},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got plan
			if err := strictjson.Unmarshal([]byte(c.text), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestUnmarshal_NamesEveryInvalidField(t *testing.T) {
	t.Parallel()
	const whole = "must be a whole number, written without point, exponent or quotes"
	type errs = strictjson.Errors
	at := func(line, column int, field, message string) *strictjson.Error {
		return &strictjson.Error{Line: line, Column: column, Field: field, Message: message}
	}
	for name, c := range map[string]struct {
		text string
		want errs
	}{
		"missing":                       {`{}`, errs{at(1, 1, "stages", "is required")}},
		"unknown":                       {"{\"stages\":[],\n\"stage\":[]}", errs{at(2, 1, "stage", "is unknown")}},
		"in another letter case":        {`{"Stages":[]}`, errs{at(1, 1, "stages", "is required"), at(1, 2, "Stages", "is unknown")}},
		"unknown, with no name":         {`{"stages":[],"":1}`, errs{at(1, 14, `""`, "is unknown")}},
		"unknown, with a long name":     {`{"stages":[],"` + strings.Repeat("é", 100) + `":1}`, errs{at(1, 14, strings.Repeat("é", 38)+"…", "is unknown")}},
		"three times":                   {`{"stages":[],"stages":1,"st\u0061ges":2}`, errs{at(1, 14, "stages", "is duplicated")}},
		"null":                          {`{"stages":null,"notice":null,"since":null}`, errs{at(1, 11, "stages", "must not be null"), at(1, 25, "notice", "must not be null"), at(1, 38, "since", "must not be null")}},
		"within a list":                 {`{"stages":[{"name":"a"},{"name":1,"on":"true"},[]]}`, errs{at(1, 33, "stages[1].name", "must be a string"), at(1, 40, "stages[1].on", "must be true or false"), at(1, 48, "stages[2]", "must be an object")}},
		"null within a list":            {`{"stages":[null]}`, errs{at(1, 12, "stages[0]", "must not be null")}},
		"not a list":                    {`{"stages":{}}`, errs{at(1, 11, "stages", "must be a list")}},
		"not a number":                  {`{"stages":[],"limit":"1","labels":{"a":"1","b":true}}`, errs{at(1, 22, "limit", "must be a number"), at(1, 40, "labels.a", whole), at(1, 48, "labels.b", whole)}},
		"not a whole number":            {`{"stages":[],"labels":{"a":1.0,"b":1e1,"c":128}}`, errs{at(1, 28, "labels.a", whole), at(1, 36, "labels.b", whole), at(1, 44, "labels.c", "is out of range")}},
		"a number that is too large":    {`{"stages":[],"limit":1e999}`, errs{at(1, 22, "limit", "is out of range")}},
		"UnmarshalText's error":         {`{"stages":[],"level":"low"}`, errs{at(1, 22, "level", "must be high")}},
		"a number for UnmarshalText":    {`{"stages":[],"level":2}`, errs{at(1, 22, "level", "must be a string")}},
		"a nested Unmarshal's errors":   {"{\"stages\":[],\n \"rules\":{\n  \"size\":\"1\",\"x\":1}}", errs{at(3, 10, "rules.size", whole), at(3, 14, "rules.x", "is unknown")}},
		"a list for a nested Unmarshal": {`{"stages":[],"rules":[]}`, errs{at(1, 22, "rules", "must be an object")}},
		"twice in a nested Unmarshal":   {`{"stages":[],"rules":{"size":1,"size":2}}`, errs{at(1, 32, "rules.size", "is duplicated")}},
		"twice in a value of any type":  {`{"stages":[],"extra":[{"a":1,"a":2}],"raw":{"b":{"c":1,"c":1}}}`, errs{at(1, 30, "extra[0].a", "is duplicated"), at(1, 56, "raw.b.c", "is duplicated")}},
		"twice in a map":                {`{"stages":[],"flat":{"a":"1","a":"2"}}`, errs{at(1, 30, "flat.a", "is duplicated")}},
		"U+0000":                        {`{"stages":[{"name":"a\u0000"}],"extra":["\u0000"]}`, errs{at(1, 20, "stages[0].name", "must not contain the character U+0000"), at(1, 41, "extra[0]", "must not contain the character U+0000")}},
		"half a surrogate pair":         {`{"stages":[{"name":"\ud800"},{"name":"\udc00\ud800"},{"name":"\ud800x\udc00"},{"name":"\\ud800"}]}`, halfPairErrors(20, 38, 62)},
		"half a pair in a name":         {`{"stages":[],"flat":{"a:\ud800":"1"}}`, errs{at(1, 22, "flat.a:\uFFFD", "must not contain half a surrogate pair")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := strictjson.Unmarshal([]byte(c.text), &plan{})
			got, ok := errors.AsType[strictjson.Errors](err)
			if !ok {
				t.Fatalf("error %v, want an Errors", err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(strictjson.Error{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func halfPairErrors(columns ...int) (all strictjson.Errors) {
	for i, column := range columns {
		all = append(all, &strictjson.Error{Line: 1, Column: column, Field: fmt.Sprintf("stages[%d].name", i), Message: "must not contain half a surrogate pair"})
	}
	return all
}

func TestUnmarshal_SaysWhereTextIsNotJSON(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"empty":                   {"", "line 1, column 1: the text is empty"},
		"white space":             {" \n", "line 1, column 1: the text is empty"},
		"incomplete":              {"{\n\"stages\":\"tr", "line 2, column 12: the text is not valid JSON: unexpected end of JSON input"},
		"broken":                  {"{\n  stages: []}", "line 2, column 3: the text is not valid JSON: invalid character 's' looking for beginning of object key string"},
		"trailing data":           {"{}\n{}", "line 2, column 1: the text is not valid JSON: invalid character '{' after top-level value"},
		"a trailing comma":        {`{"a":1,}`, "line 1, column 8: the text is not valid JSON: invalid character '}' looking for beginning of object key string"},
		"a byte order mark":       {"\xEF\xBB\xBF{}", "line 1, column 1: the text is not valid JSON: invalid character 'ï' looking for beginning of value"},
		"not UTF-8":               {"{\"é\":\n\"\xff\"}", "line 2, column 2: the text is not valid UTF-8"},
		"a list":                  {` [{}]`, "line 1, column 2: the text must be an object"},
		"null":                    {`null`, "line 1, column 1: the text must not be null"},
		"too deep":                {`{"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, "line 1, column 21: the text is nested too deeply"},
		"brackets in strings":     {`{"stages":[],"` + strings.Repeat(`[\"`, 16) + `":1}`, "line 1, column 14: " + strings.Repeat(`["`, 16) + ": is unknown"},
		"too deep for the parser": {strings.Repeat("[", 20_000), "line 1, column 10001: the text is not valid JSON: invalid character '[' exceeded max depth"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := strictjson.Unmarshal([]byte(c.text), &plan{})
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestErrors_AreBoundedInALogLine(t *testing.T) {
	t.Parallel()
	text := `{"stages":[` + strings.Repeat("1,", 1000) + `1]}`
	err := strictjson.Unmarshal([]byte(text), &plan{})
	if errs, ok := errors.AsType[strictjson.Errors](err); !ok || len(errs) != 1001 {
		t.Errorf("%d errors, want 1001", len(errs))
	}
	if line := err.Error(); !strings.HasSuffix(line, "; and 991 more") || len(line) > 1000 {
		t.Errorf("error of %d bytes: %s; want at most 1000, ending in \"; and 991 more\"", len(line), line)
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	got, err := strictjson.Members([]byte("\n{ \"a\": 1,\n\n \"b\":[2],\"\\u0061\":\n{} }\n"))
	want := []strictjson.Member{
		{Name: "a", Value: json.RawMessage("1"), Line: 2},
		{Name: "b", Value: json.RawMessage("[2]"), Line: 4},
		{Name: "a", Value: json.RawMessage("{}"), Line: 4},
	}
	ignore := cmpopts.IgnoreUnexported(strictjson.Member{})
	if diff := cmp.Diff(want, got, ignore); err != nil || diff != "" {
		t.Errorf("error %v, members (-want +got):\n%s", err, diff)
	}
	t.Run("up to a syntax error", func(t *testing.T) {
		t.Parallel()
		got, err := strictjson.Members([]byte("{\"a\":1,\n\"b\" 2,\"c\":3}"))
		if diff := cmp.Diff([]strictjson.Member{{Name: "a", Value: json.RawMessage("1"), Line: 1}}, got, ignore); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if want := "line 2, column 5: the text is not valid JSON: invalid character '2' after object key"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
	for text, want := range map[string]string{
		"":     "line 1, column 1: the text is empty",
		" [1]": "line 1, column 2: the text must be an object",
		"{} 1": "line 1, column 4: the text is not valid JSON: invalid character '1' after top-level value",
	} {
		if got, err := strictjson.Members([]byte(text)); err == nil || err.Error() != want || len(got) != 0 {
			t.Errorf("Members(%q) = %v, error %v; want the error %s", text, got, err, want)
		}
	}
}

func TestUnmarshal_PanicsOnAnUnsupportedType(t *testing.T) {
	t.Parallel()
	for name, dst := range map[string]any{
		"without a tag": &struct{ A int }{},
		"a channel": &struct {
			A chan int `json:"a"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("Unmarshal did not panic")
				}
			}()
			_ = strictjson.Unmarshal([]byte(`{"a":1}`), dst)
		})
	}
}

// FuzzUnmarshal checks that encoding/json decodes every accepted text to the same
// value, and that every error's position is within the text.
func FuzzUnmarshal(f *testing.F) {
	for _, seed := range []string{
		`{"stages":[{"name":"a","users":[1]}]}`, `{"stages":[],"labels":{"a":-0}}`, `{"stages":[],"notice":"\ud83d\ude42"}`, `{"stages":[],"rules":{"size":1}}`,
		`{"stages":[],"stages":[]}`, `{"stages":[],"extra":[[[]]],"raw":null}`, "{\"\xff\":1}", `{}x`, ``, "\n[\n", `{"stages":[],"limit":1e5}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var got, want plan
		if err := strictjson.Unmarshal([]byte(text), &got); err != nil {
			errs, ok := errors.AsType[strictjson.Errors](err)
			if !ok || len(errs) == 0 {
				t.Fatalf("error %v, want an Errors with at least one", err)
			}
			lines := strings.Split(text, "\n")
			for _, e := range errs {
				if e.Line < 1 || e.Line > len(lines) || e.Column < 1 || e.Column > len(lines[e.Line-1])+1 {
					t.Errorf("the position of %q is outside of %q", e, text)
				}
			}
			return
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("accepted a text that encoding/json rejects: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-encoding/json +strictjson)\n%s", diff)
		}
	})
}
