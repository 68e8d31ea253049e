package relay

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scanAll feeds a stream to a scanner, size bytes at a time. It returns the
// events' bytes and data, what is left, and the error.
func scanAll(stream string, size int) (raw, data []string, rest string, err error) {
	s := scanner{buf: make([]byte, 0, 16)}
	whole := stream
	var passed bytes.Buffer
	for ended := false; !ended; {
		n := copy(s.free(), stream[:min(size, len(stream))])
		s.fill(n)
		stream = stream[n:]
		ended = len(stream) == 0
		for {
			var e event
			if e, err = s.scan(); err != nil {
				passed.Write(s.take(0))
				return raw, data, string(s.foreign()), err
			}
			if e.raw == nil {
				if ended && s.finish() {
					continue
				}
				break
			}
			raw, data = append(raw, string(e.raw)), append(data, string(e.data))
		}
		passed.Write(s.take(0))
	}
	if !strings.HasPrefix(whole+"\n\n", passed.String()) {
		return raw, data, "", errors.New("what was taken is not the beginning of the stream")
	}
	return raw, data, strings.TrimLeft(string(s.unfinished()), "\n"), nil // a line feed may come late
}

func TestScanner_CutsStreamsIntoWholeEvents(t *testing.T) {
	for name, tt := range map[string]struct {
		stream string
		data   []string
		rest   string
		err    error
	}{
		"line feeds":                             {stream: "data: a\n\ndata: b\n\n", data: []string{"a", "b"}},
		"carriage returns and line feeds":        {stream: "data: a\r\n\r\ndata: b\r\n\r\n", data: []string{"a", "b"}},
		"carriage returns alone":                 {stream: "data: a\r\rdata: b\r\r", data: []string{"a", "b"}},
		"no space after the colon":               {stream: "data:a\n\n", data: []string{"a"}},
		"only one space belongs to the field":    {stream: "data:  a\n\n", data: []string{" a"}},
		"several data lines":                     {stream: "data: a\ndata\ndata:\ndata: b\n\n", data: []string{"a\n\n\nb"}},
		"other fields and comments":              {stream: ": hello\nevent: x\nid: 7\nretry: 10\ndata: a\n\n", data: []string{"a"}},
		"comments alone are events without data": {stream: ": keep-alive\n\ndata: a\n\n", data: []string{"", "a"}},
		"further blank lines":                    {stream: "data: a\n\n\n\ndata: b\n\n", data: []string{"a", "", "", "b"}},
		"a byte order mark":                      {stream: "\xEF\xBB\xBFdata: a\n\n", data: []string{"a"}},
		"nothing":                                {stream: ""},
		"an end without a blank line":            {stream: "data: 1\n\ndata: [DONE]", data: []string{"1", "[DONE]"}},
		"an end after one line feed":             {stream: "data: {\"a\":1}\n", data: []string{`{"a":1}`}},
		"an end within a JSON text":              {stream: "data: 1\n\ndata: {\"a\":", data: []string{"1"}, rest: "data: {\"a\":"},
		"an end within a field's name":           {stream: "data: 1\n\ndat", data: []string{"1"}, rest: "dat"},
		"bare JSON":                              {stream: "data: 1\n\n{\"error\":\"x\"}", data: []string{"1"}, rest: `{"error":"x"}`, err: errNotEvent},
		"bare JSON after one line feed":          {stream: "data: 1\n{\"error\":\"x\"}", rest: `{"error":"x"}`, err: errNotEvent},
		"bare text that begins like a field":     {stream: "error: no\n", rest: "error: no\n", err: errNotEvent},
		"a page":                                 {stream: "<html>\n\n", rest: "<html>\n\n", err: errNotEvent},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, 7, 1 << 10} {
				_, data, rest, err := scanAll(tt.stream, size)
				if diff := cmp.Diff(tt.data, data); diff != "" || !errors.Is(err, tt.err) {
					t.Errorf("read %d at a time: %v\n%s", size, err, diff)
				}
				// An error is found before all that follows has been read.
				if rest != tt.rest && (err == nil || !strings.HasPrefix(tt.rest, rest)) {
					t.Errorf("read %d at a time: %q is left, want %q", size, rest, tt.rest)
				}
			}
		})
	}
}

func TestScanner_BoundsTheLengthOfAnEvent(t *testing.T) {
	stream := "data: " + strings.Repeat("x", maxEvent)
	if _, _, _, err := scanAll(stream, 1<<20); !errors.Is(err, errTooLong) {
		t.Errorf("got %v", err)
	}
}

func TestKindOf_KnowsWhatEndsAStream(t *testing.T) {
	for data, want := range map[string]eventKind{
		`[DONE]`:  eventDone,
		` [DONE]`: eventDone,
		`{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}`:                      eventOther,
		`{"choices":[{"index":0,"finish_reason":null},{"index":1,"finish_reason":"stop"}]}`: eventFinish,
		`{"choices":[{"finish_reason" : "length"}]}`:                                        eventFinish,
		`{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""}}]}`:                  eventOther,
		`{"error":{"message":"x"}}`:                                                         eventError,
		`{"error":"x"}`:                                                                     eventError,
		`{"providerModelError":{"error":{}}}`:                                               eventError,
		`{"type":"error","code":"x","error":null}`:                                          eventError,
		`{"type":"response.completed","response":{"error":null}}`:                           eventFinish,
		`{"type":"response.output_text.delta","delta":"\"error\""}`:                         eventOther,
		`{"type":"response.created","response":{"error":null}}`:                             eventOther,
		`{"id":"r","object":"response","error":{"message":"x"}}`:                            eventOther,
		`{"type":"transcript.text.done","text":"x"}`:                                        eventFinish,
		`{"error":null}`: eventOther,
		`{"error":`:      eventOther,
		``:               eventOther,
	} {
		if got := kindOf([]byte(data)); got != want {
			t.Errorf("%s: got %d, want %d", data, got, want)
		}
	}
}

// FuzzScanner compares streams that are read at once with the same in pieces.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		"data: a\n\ndata: [DONE]\n\n", "data: a\r\n\r\n: x\r\rdata", "\xEF\xBB\xBFdata:a\n\n{\"error\":1}", "data: a\ndata: b\n\n\n", "id\nevent:\r\n\n", "data: {}\n",
	} {
		f.Add(seed, uint8(1))
	}
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		raw, data, rest, err := scanAll(stream, len(stream)+1)
		joined := strings.Join(raw, "")
		if err == nil && !slices.Contains([]string{stream, stream + "\n", stream + "\n\n"}, joined+rest) && rest != "" {
			t.Fatalf("%q and %q are not the stream", joined, rest)
		}
		if !strings.HasPrefix(stream+"\n\n", joined) {
			t.Fatalf("%q is not the beginning of the stream", joined)
		}
		_, pieces, _, pieceErr := scanAll(stream, int(size)%17+1)
		// A carriage return at the end of a read leaves its line feed to the next
		// event, and a foreign line is found before all of it has been read.
		if !errors.Is(pieceErr, err) || strings.Join(pieces, "|") != strings.Join(data, "|") {
			t.Errorf("at once %q, %v; in pieces %q, %v", data, err, pieces, pieceErr)
		}
	})
}
