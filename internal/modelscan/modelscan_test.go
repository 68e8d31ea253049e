package modelscan_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

const noLimit = math.MaxInt64

func ExampleFind() {
	body := io.NopCloser(strings.NewReader(`{"model":"llama","messages":[{"role":"user","content":"hi"}]}`))
	found, err := modelscan.Find("application/json", body, 32<<20)
	body = found.Restore(body)
	whole, _ := io.ReadAll(body)
	fmt.Println(found.Kind == modelscan.Text, found.Model, err)
	fmt.Printf("%s\n", whole)
	// Output:
	// true llama <nil>
	// {"model":"llama","messages":[{"role":"user","content":"hi"}]}
}

// chunkings are the ways in which a body may be read.
var chunkings = map[string]func(io.Reader) io.Reader{
	"whole":            func(r io.Reader) io.Reader { return r },
	"byte by byte":     iotest.OneByteReader,
	"half by half":     iotest.HalfReader,
	"end with data":    iotest.DataErrReader,
	"byte, end with":   func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
	"with empty reads": func(r io.Reader) io.Reader { return &stutter{r: r} },
}

// stutter returns no bytes at every other read.
type stutter struct {
	r    io.Reader
	turn bool
}

func (s *stutter) Read(p []byte) (int, error) {
	s.turn = !s.turn
	if s.turn {
		return 0, nil
	}
	return s.r.Read(p)
}

func find(t *testing.T, contentType, body string, limit int64) (*modelscan.Result, error) {
	t.Helper()
	var first *modelscan.Result
	var firstErr error
	for name, chunked := range chunkings {
		if strings.HasPrefix(name, "byte") && len(body) > 64<<10 {
			continue // a long body is cut often enough in other ways
		}
		source := io.NopCloser(chunked(strings.NewReader(body)))
		found, err := modelscan.Find(contentType, source, limit)
		whole, readErr := io.ReadAll(found.Restore(source))
		if string(whole) != body || readErr != nil {
			t.Fatalf("%s: the body came back changed: %d bytes of %d, %v", name, len(whole), len(body), readErr)
		}
		if first == nil {
			first, firstErr = found, err
		}
		if found.Kind != first.Kind || found.Model != first.Model || fmt.Sprint(err) != fmt.Sprint(firstErr) {
			t.Fatalf("%s: %v %q %v, otherwise %v %q %v", name, found.Kind, found.Model, err, first.Kind, first.Model, firstErr)
		}
	}
	return first, firstErr
}

func TestFind_LocatesTheModelInJSON(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, tt := range map[string]struct {
		body  string
		kind  modelscan.Kind
		model string
		err   error
	}{
		"first":                            {body: `{"model":"a b/c:4","x":1}`, kind: modelscan.Text, model: "a b/c:4"},
		"last":                             {body: `{"x":[1,{"y":"z"}],"n":-1.5e+3,"t":true,"f":false,"o":null,"e":{},"l":[],"model":"m"}`, kind: modelscan.Text, model: "m"},
		"between much white space":         {body: " \r\n\t{ \n\"x\" \t: 1 , \"model\" : \r\n \"m\" }", kind: modelscan.Text, model: "m"},
		"after a byte order mark":          {body: "\xEF\xBB\xBF{\"model\":\"m\"}", kind: modelscan.Text, model: "m"},
		"with an escaped name":             {body: `{"\u006d\u006F\u0064el":"m"}`, kind: modelscan.Text, model: "m"},
		"with every letter escaped":        {body: `{"\u006d\u006f\u0064\u0065\u006c":"m"}`, kind: modelscan.Text, model: "m"},
		"with an escaped value":            {body: `{"model":"\u006d\/\"\\\ud83d\ude00é"}`, kind: modelscan.Text, model: `m/"\😀é`},
		"nested ones do not count":         {body: `{"x":{"model":"a","y":[{"model":"b"}]},"model":"m"}`, kind: modelscan.Text, model: "m"},
		"nor those in strings":             {body: `{"x":"\"model\":\"a\"","y":"\\","model":"m"}`, kind: modelscan.Text, model: "m"},
		"nor other names":                  {body: `{"Model":"a","model ":"b","models":"c","\u004dodel":"d","":"e"}`, kind: modelscan.Missing},
		"the first of two":                 {body: `{"model":"a","model":"b"}`, kind: modelscan.Text, model: "a"},
		"after backslashes":                {body: `{"x":"\\\\\\\"","y":["\\\\","\\\""],"model":"m"}`, kind: modelscan.Text, model: "m"},
		"after a megabyte":                 {body: `{"` + long + `":"` + long + `\"` + long + `","model":"m"}`, kind: modelscan.Text, model: "m"},
		"brackets in strings do not count": {body: `{"x":["]}",{"}":"{["}],"model":"m"}`, kind: modelscan.Text, model: "m"},
		"empty":                            {body: `{"model":""}`, kind: modelscan.Text},
		"of bytes that are no UTF-8":       {body: "{\"model\":\"a\xffb\"}", kind: modelscan.Text, model: "a\uFFFDb"},
		"missing":                          {body: `{"x":1}`, kind: modelscan.Missing},
		"missing in an empty object":       {body: `{}`, kind: modelscan.Missing},
		"null":                             {body: `{"model":null}`, kind: modelscan.Null},
		"a number":                         {body: `{"model":1234567890123}`, kind: modelscan.Invalid},
		"true":                             {body: `{"model":true}`, kind: modelscan.Invalid},
		"an array":                         {body: `{"model":["m"]}`, kind: modelscan.Invalid},
		"an object":                        {body: `{"model":{"model":"m"}}`, kind: modelscan.Invalid},
		"as long as may be":                {body: `{"model":"` + long[:modelscan.MaxModel] + `"}`, kind: modelscan.Text, model: long[:modelscan.MaxModel]},
		"longer":                           {body: `{"model":"` + long[:modelscan.MaxModel+1] + `"}`, kind: modelscan.Invalid},
		"much longer":                      {body: `{"model":"` + long + `"}`, kind: modelscan.Invalid},
		"as deep as may be":                {body: `{"x":` + strings.Repeat("[", 1024) + strings.Repeat("]", 1024) + `,"model":"m"}`, kind: modelscan.Text, model: "m"},
		"deeper":                           {body: `{"x":` + strings.Repeat("[", 1025) + strings.Repeat("]", 1025) + `,"model":"m"}`, err: modelscan.ErrSyntax},
		"before what is broken":            {body: `{"model":"m"]]"`, kind: modelscan.Text, model: "m"},

		"nothing":                      {body: ``, err: modelscan.ErrSyntax},
		"white space only":             {body: " \n", err: modelscan.ErrSyntax},
		"half a byte order mark":       {body: "\xEF\xBBx", err: modelscan.ErrSyntax},
		"a byte order mark cut off":    {body: "\xEF\xBB", err: modelscan.ErrSyntax},
		"an array as the body":         {body: `[{"model":"m"}]`, err: modelscan.ErrSyntax},
		"a string as the body":         {body: `"model"`, err: modelscan.ErrSyntax},
		"an object cut off":            {body: `{`, err: modelscan.ErrSyntax},
		"a name cut off":               {body: `{"mod`, err: modelscan.ErrSyntax},
		"a name without quotes":        {body: `{model:"m"}`, err: modelscan.ErrSyntax},
		"a name without a value":       {body: `{"x"}`, err: modelscan.ErrSyntax},
		"a name and no more":           {body: `{"x":`, err: modelscan.ErrSyntax},
		"a name with a bad escape":     {body: `{"\q":1,"model":"m"}`, err: modelscan.ErrSyntax},
		"a value missing":              {body: `{"x":,"model":"m"}`, err: modelscan.ErrSyntax},
		"an unknown literal":           {body: `{"x":nil,"model":"m"}`, err: modelscan.ErrSyntax},
		"no comma":                     {body: `{"x":1 "model":"m"}`, err: modelscan.ErrSyntax},
		"a trailing comma":             {body: `{"x":1,}`, err: modelscan.ErrSyntax},
		"a number cut off":             {body: `{"x":12`, err: modelscan.ErrSyntax},
		"a value cut off":              {body: `{"x":1`, err: modelscan.ErrSyntax},
		"an array cut off":             {body: `{"x":[1,`, err: modelscan.ErrSyntax},
		"an array cut off in a string": {body: `{"x":["`, err: modelscan.ErrSyntax},
		"brackets that do not match":   {body: `{"x":[}],"model":"m"}`, err: modelscan.ErrSyntax},
		"a model cut off":              {body: `{"model":"m`, err: modelscan.ErrSyntax},
		"a model that is missing":      {body: `{"model":}`, err: modelscan.ErrSyntax},
		"a model and no more":          {body: `{"model":`, err: modelscan.ErrSyntax},
		"a model with a bad escape":    {body: `{"model":"\x"}`, err: modelscan.ErrSyntax},
		"a model with a control byte":  {body: "{\"model\":\"a\nb\"}", err: modelscan.ErrSyntax},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := find(t, "application/json; charset=utf-8", tt.body, noLimit)
			if !errors.Is(err, tt.err) || found.Kind != tt.kind || found.Model != tt.model {
				t.Errorf("got %v %.50q %v, want %v %.50q %v", found.Kind, found.Model, err, tt.kind, tt.model, tt.err)
			}
		})
	}
}

func TestFind_SaysWhereTheSyntaxIsWrong(t *testing.T) {
	_, err := find(t, "", `{"x" 1}`, noLimit)
	if want := "modelscan: malformed body: expected a colon at byte 6"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFind_ReadsOnlyWhatItNeeds(t *testing.T) {
	const head = `{"model":"m",`
	source := io.MultiReader(strings.NewReader(head), iotest.ErrReader(errors.New("read too far")))
	if found, err := modelscan.Find("", source, noLimit); err != nil || found.Model != "m" {
		t.Error(found.Model, err)
	}
}

func TestFind_StopsAtTheLimit(t *testing.T) {
	const body = `{"x":"0123456789","model":"m"}`
	needed := int64(strings.Index(body, `"}`) + 1)
	for limit := int64(-1); limit <= int64(len(body))+1; limit++ {
		found, err := find(t, "", body, limit)
		if limit >= needed && (err != nil || found.Model != "m") {
			t.Errorf("limit %d: %q %v", limit, found.Model, err)
		}
		if limit < needed && !errors.Is(err, modelscan.ErrTooLarge) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	if _, err := find(t, "", `{"x":1}`, 7); err != nil {
		t.Error("a body as long as the limit:", err)
	}
	endless := &endless{}
	if _, err := modelscan.Find("", endless, 3<<20); !errors.Is(err, modelscan.ErrTooLarge) || endless.read != 3<<20+1 {
		t.Errorf("read %d of an endless body: %v", endless.read, err)
	}
}

// endless is white space that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

func TestFind_KeepsReadErrorsForRestore(t *testing.T) {
	cause := errors.New("connection lost")
	form, contentType := formBody(t, "", 100)
	for contentType, head := range map[string]string{
		"application/json": `{"x":"y`,
		contentType:        form[:len(form)/2],
	} {
		source := io.NopCloser(io.MultiReader(strings.NewReader(head), iotest.ErrReader(cause)))
		found, err := modelscan.Find(contentType, source, noLimit)
		if !errors.Is(err, cause) || errors.Is(err, modelscan.ErrSyntax) {
			t.Errorf("%s: find: %v", contentType, err)
		}
		// The source does not return its error a second time.
		whole, err := io.ReadAll(found.Restore(io.NopCloser(strings.NewReader("x"))))
		if string(whole) != head || !errors.Is(err, cause) {
			t.Errorf("%s: restored %q, %v", contentType, whole, err)
		}
	}
	if _, err := modelscan.Find("", silent{}, noLimit); !errors.Is(err, io.ErrNoProgress) {
		t.Error("a reader that makes no progress:", err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

func TestRestore_ClosesTheBody(t *testing.T) {
	source := &closer{Reader: strings.NewReader(`{}`)}
	found, _ := modelscan.Find("", source, noLimit)
	if err := found.Restore(source).Close(); err != nil || !source.closed {
		t.Error(source.closed, err)
	}
}

type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }
