package modelscan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

func ExampleFind() {
	model, err := modelscan.Find("application/json", []byte(`{"model":"llama","messages":[{"role":"user","content":"hi"}]}`))
	fmt.Println(model, err)
	_, err = modelscan.Find("application/json", []byte(`{"messages":[{"role":"us`))
	fmt.Println(errors.Is(err, modelscan.ErrIncomplete))
	// Output:
	// llama <nil>
	// true
}

// checkPrefixes checks that Find returns for every beginning of a body the same as
// for the whole body, or ErrIncomplete.
func checkPrefixes(t *testing.T, contentType, body string) {
	t.Helper()
	model, err := modelscan.Find(contentType, []byte(body))
	for size := range min(len(body), 2<<10) {
		got, gotErr := modelscan.Find(contentType, []byte(body[:size]))
		if errors.Is(gotErr, modelscan.ErrIncomplete) {
			continue
		}
		if got != model || errors.Is(gotErr, modelscan.ErrSyntax) != errors.Is(err, modelscan.ErrSyntax) || errors.Is(gotErr, modelscan.ErrNoString) != errors.Is(err, modelscan.ErrNoString) {
			t.Errorf("first %d bytes: model %.50q, error %v; whole body: model %.50q, error %v", size, got, gotErr, model, err)
		}
	}
}

func TestFind_LocatesTheModelInJSON(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, tt := range map[string]struct {
		body  string
		model string
		err   error
	}{
		"first":                            {body: `{"model":"a b/c:4","x":1}`, model: "a b/c:4"},
		"last":                             {body: `{"x":[1,{"y":"z"}],"n":-1.5e+3,"t":true,"f":false,"o":null,"e":{},"l":[],"model":"m"}`, model: "m"},
		"with a lot of white space":        {body: " \r\n\t{ \n\"x\" \t: 1 , \"model\" : \r\n \"m\" }", model: "m"},
		"after a byte order mark":          {body: "\xEF\xBB\xBF{\"model\":\"m\"}", model: "m"},
		"with an escaped name":             {body: `{"\u006d\u006F\u0064el":"m"}`, model: "m"},
		"with every letter escaped":        {body: `{"\u006d\u006f\u0064\u0065\u006c":"m"}`, model: "m"},
		"with an escaped value":            {body: `{"model":"\u006d\/\"\\\ud83d\ude00é"}`, model: `m/"\😀é`},
		"nested models do not count":       {body: `{"x":{"model":"a","y":[{"model":"b"}]},"model":"m"}`, model: "m"},
		"models in strings do not count":   {body: `{"x":"\"model\":\"a\"","y":"\\","model":"m"}`, model: "m"},
		"other names do not count":         {body: `{"Model":"a","model ":"b","models":"c","\u004dodel":"d","":"e"}`},
		"the first of two":                 {body: `{"model":"a","model":"b"}`, model: "a"},
		"after backslashes":                {body: `{"x":"\\\\\\\"","y":["\\\\","\\\""],"model":"m"}`, model: "m"},
		"after a megabyte":                 {body: `{"` + long + `":"` + long + `\"` + long + `","model":"m"}`, model: "m"},
		"brackets in strings do not count": {body: `{"x":["]}",{"}":"{["}],"model":"m"}`, model: "m"},
		"empty":                            {body: `{"model":""}`},
		"with bytes that are not UTF-8":    {body: "{\"model\":\"a\xffb\"}", model: "a\uFFFDb"},
		"missing":                          {body: `{"x":1}`},
		"missing in an empty object":       {body: `{}`},
		"null":                             {body: `{"model":null}`},
		"a number":                         {body: `{"model":1234567890123}`, err: modelscan.ErrNoString},
		"true":                             {body: `{"model":true}`, err: modelscan.ErrNoString},
		"an array":                         {body: `{"model":["m"]}`, err: modelscan.ErrNoString},
		"an object":                        {body: `{"model":{"model":"m"}}`, err: modelscan.ErrNoString},
		"of the maximum length":            {body: `{"model":"` + long[:modelscan.MaxModel] + `"}`, model: long[:modelscan.MaxModel]},
		"one byte too long":                {body: `{"model":"` + long[:modelscan.MaxModel+1] + `"}`, err: modelscan.ErrNoString},
		"much too long":                    {body: `{"model":"` + long + `"}`, err: modelscan.ErrNoString},
		"after the deepest nesting":        {body: `{"x":` + strings.Repeat("[", 1024) + strings.Repeat("]", 1024) + `,"model":"m"}`, model: "m"},
		"after too deep a nesting":         {body: `{"x":` + strings.Repeat("[", 1025) + strings.Repeat("]", 1025) + `,"model":"m"}`, err: modelscan.ErrSyntax},
		"before a syntax error":            {body: `{"model":"m"]]"`, model: "m"},

		"nothing":                       {body: ``, err: modelscan.ErrSyntax},
		"white space only":              {body: " \n", err: modelscan.ErrSyntax},
		"half a byte order mark":        {body: "\xEF\xBBx", err: modelscan.ErrSyntax},
		"an incomplete byte order mark": {body: "\xEF\xBB", err: modelscan.ErrSyntax},
		"an array as the body":          {body: `[{"model":"m"}]`, err: modelscan.ErrSyntax},
		"a string as the body":          {body: `"model"`, err: modelscan.ErrSyntax},
		"an incomplete object":          {body: `{`, err: modelscan.ErrSyntax},
		"an incomplete name":            {body: `{"mod`, err: modelscan.ErrSyntax},
		"a name without quotes":         {body: `{model:"m"}`, err: modelscan.ErrSyntax},
		"a name without a value":        {body: `{"x"}`, err: modelscan.ErrSyntax},
		"nothing after a name":          {body: `{"x":`, err: modelscan.ErrSyntax},
		"a name with a bad escape":      {body: `{"\q":1,"model":"m"}`, err: modelscan.ErrSyntax},
		"a missing value":               {body: `{"x":,"model":"m"}`, err: modelscan.ErrSyntax},
		"an unknown literal":            {body: `{"x":nil,"model":"m"}`, err: modelscan.ErrSyntax},
		"a missing comma":               {body: `{"x":1 "model":"m"}`, err: modelscan.ErrSyntax},
		"a trailing comma":              {body: `{"x":1,}`, err: modelscan.ErrSyntax},
		"an incomplete number":          {body: `{"x":12`, err: modelscan.ErrSyntax},
		"an incomplete value":           {body: `{"x":1`, err: modelscan.ErrSyntax},
		"an incomplete array":           {body: `{"x":[1,`, err: modelscan.ErrSyntax},
		"an incomplete array's string":  {body: `{"x":["`, err: modelscan.ErrSyntax},
		"brackets that do not match":    {body: `{"x":[}],"model":"m"}`, err: modelscan.ErrSyntax},
		"an incomplete model":           {body: `{"model":"m`, err: modelscan.ErrSyntax},
		"a missing model":               {body: `{"model":}`, err: modelscan.ErrSyntax},
		"nothing after model":           {body: `{"model":`, err: modelscan.ErrSyntax},
		"a model with a bad escape":     {body: `{"model":"\x"}`, err: modelscan.ErrSyntax},
		"a model with a control byte":   {body: "{\"model\":\"a\nb\"}", err: modelscan.ErrSyntax},
	} {
		t.Run(name, func(t *testing.T) {
			model, err := modelscan.Find("application/json; charset=utf-8", []byte(tt.body))
			if !errors.Is(err, tt.err) || model != tt.model {
				t.Errorf("model %.50q, error %v; want %.50q, %v", model, err, tt.model, tt.err)
			}
			checkPrefixes(t, "application/json", tt.body)
		})
	}
}

func TestFind_SaysWhereTheSyntaxIsWrong(t *testing.T) {
	_, err := modelscan.Find("", []byte(`{"x" 1}`))
	if want := "modelscan: malformed body: expected a colon at byte 6"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
