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
	unread := stream
	var taken bytes.Buffer
	for ended := false; !ended; {
		n := copy(s.free(), unread[:min(size, len(unread))])
		s.fill(n)
		unread = unread[n:]
		ended = len(unread) == 0
		for {
			var e event
			if e, err = s.scan(); err != nil {
				taken.Write(s.take(0))
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
		taken.Write(s.take(0))
	}
	if !strings.HasPrefix(stream+"\n\n", taken.String()) {
		return raw, data, "", errors.New("what was taken is not the beginning of the stream")
	}
	rest = string(s.unfinished())
	return raw, data, rest, nil
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
				if !errors.Is(err, tt.err) {
					t.Errorf("read %d bytes at a time: error %v, want %v", size, err, tt.err)
				}
				if diff := cmp.Diff(tt.data, data); diff != "" {
					t.Errorf("read %d bytes at a time: data (-want +got):\n%s", size, diff)
				}
				// The scanner finds an error before it has read everything that follows.
				isBeginning := err != nil && strings.HasPrefix(tt.rest, rest)
				if rest != tt.rest && !isBeginning {
					t.Errorf("read %d bytes at a time: the rest is %q, want %q", size, rest, tt.rest)
				}
			}
		})
	}
}

func TestScanner_BoundsTheLengthOfAnEvent(t *testing.T) {
	stream := "data: " + strings.Repeat("x", maxEvent)
	if _, _, _, err := scanAll(stream, 1<<20); !errors.Is(err, errTooLong) {
		t.Errorf("error %v, want %v", err, errTooLong)
	}
}

func TestKindOf_FindsTheEventsThatEndAStream(t *testing.T) {
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
			t.Errorf("%s: kind %d, want %d", data, got, want)
		}
	}
}

// FuzzScanner checks that it does not matter in which pieces a stream is read.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		"data: a\n\ndata: [DONE]\n\n", "data: a\r\n\r\n: x\r\rdata", "\xEF\xBB\xBFdata:a\n\n{\"error\":1}", "data: a\ndata: b\n\n\n", "id\nevent:\r\n\n", "data: {}\n",
	} {
		f.Add(seed, uint8(1))
	}
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		raw, data, rest, err := scanAll(stream, len(stream)+1)
		joined := strings.Join(raw, "")
		isWhole := slices.Contains([]string{stream, stream + "\n", stream + "\n\n"}, joined+rest)
		if err == nil && rest != "" && !isWhole {
			t.Fatalf("the events %q and the rest %q are not the stream", joined, rest)
		}
		if !strings.HasPrefix(stream+"\n\n", joined) {
			t.Fatalf("the events %q are not the beginning of the stream", joined)
		}
		// The raw bytes may differ: if a read ends between the CR and the LF that end
		// an event, the LF is part of no event. The rest may differ after an error.
		_, pieces, _, pieceErr := scanAll(stream, int(size)%17+1)
		if !errors.Is(pieceErr, err) || strings.Join(pieces, "|") != strings.Join(data, "|") {
			t.Errorf("read at once: data %q, error %v; in pieces: data %q, error %v", data, err, pieces, pieceErr)
		}
	})
}
