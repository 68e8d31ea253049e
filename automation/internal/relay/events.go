package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

var (
	errNotEvent = errors.New("relay: the stream contains something other than events")
	errTooLong  = errors.New("relay: an event is longer than 8 MiB")
)

const byteOrderMark = "\xEF\xBB\xBF"

// event is a server-sent event.
type event struct {
	raw  []byte // as it came, with the blank line that ends it; nil if there is no event
	data []byte // the values of its data lines, joined by line feeds; nil if it has none
}

// scanner cuts a stream of server-sent events into whole events. Its offsets
// are relative to buf.
type scanner struct {
	buf   []byte
	taken int // end of what take has returned
	next  int // start of the event to be returned next
	line  int // start of the line to be scanned next
	seek  int // where to look for the end of that line

	dataFrom, dataTo int    // the value of the event's first data line
	joined           []byte // the values of all its data lines, if it has several
	hasData          bool

	begun  bool // the stream has been checked for a byte order mark
	skipLF bool // the last line ended in CR; an LF that follows belongs to it
	seen   bool // an event with data has been returned
}

// free returns the space for the next read. It invalidates all slices that the
// scanner has returned.
func (s *scanner) free() []byte {
	if s.taken > 0 {
		s.buf = s.buf[:copy(s.buf, s.buf[s.taken:])]
		for _, offset := range []*int{&s.next, &s.line, &s.seek, &s.dataFrom, &s.dataTo} {
			*offset -= s.taken
		}
		s.taken = 0
	}
	if len(s.buf) == cap(s.buf) {
		grown := make([]byte, len(s.buf), 2*cap(s.buf))
		copy(grown, s.buf)
		s.buf = grown
	}
	return s.buf[len(s.buf):cap(s.buf)]
}

// fill adds the n bytes that were read into free.
func (s *scanner) fill(n int) { s.buf = s.buf[:len(s.buf)+n] }

// take returns the bytes of the events that were scanned since the last call,
// except the last keep bytes.
func (s *scanner) take(keep int) []byte {
	p := s.buf[s.taken : s.next-keep]
	s.taken = s.next - keep
	return p
}

// unfinished returns the beginning of an event that is not complete yet.
func (s *scanner) unfinished() []byte { return s.buf[s.next:] }

// foreign returns the rest of the buffer, from the first line that does not
// belong to an event.
func (s *scanner) foreign() []byte { return s.buf[s.line:] }

// finish is called at the stream's end, when scan returns no more events. If
// the last event lacks only the end of its last line or its blank line, finish
// adds them and returns true: then scan returns that event.
func (s *scanner) finish() bool {
	rest := s.unfinished()
	if len(bytes.TrimSpace(rest)) == 0 {
		return false
	}
	for _, end := range []string{"\n", "\n\n"} {
		probe := scanner{buf: append(bytes.Clone(rest), end...), begun: s.begun, skipLF: s.skipLF}
		e, err := probe.scan()
		if err == nil && e.raw != nil && (e.data == nil || isDone(e.data) || json.Valid(e.data)) {
			s.buf = append(s.buf, end...)
			return true
		}
	}
	return false
}

// scan returns the next complete event, or none if more must be read first.
func (s *scanner) scan() (event, error) {
	if !s.begun {
		if len(s.buf) < len(byteOrderMark) && bytes.HasPrefix([]byte(byteOrderMark), s.buf) {
			return event{}, nil
		}
		s.begun = true
		if bytes.HasPrefix(s.buf, []byte(byteOrderMark)) {
			s.line = len(byteOrderMark)
			s.seek = s.line
		}
	}
	for {
		if s.skipLF && s.line < len(s.buf) {
			s.skipLF = false
			if s.buf[s.line] == '\n' {
				if s.next == s.line { // it belongs to the end of the previous event
					s.next++
				}
				s.line++
				s.seek = max(s.seek, s.line)
			}
		}
		end := s.findLineEnd()
		if end < 0 {
			const firstBytes = ":deir" // of a comment, data, event, id and retry
			switch {
			case s.line < len(s.buf) && !strings.ContainsRune(firstBytes, rune(s.buf[s.line])):
				return event{}, errNotEvent
			case len(s.buf)-s.next > maxEvent:
				return event{}, errTooLong
			}
			return event{}, nil
		}
		from := s.line
		if end > from && !s.field(from, end) {
			return event{}, errNotEvent
		}
		s.line = end + 1
		s.seek = s.line
		if s.buf[end] == '\r' {
			s.skipLF = true
			if s.line < len(s.buf) && s.buf[s.line] == '\n' {
				s.line++
				s.seek, s.skipLF = s.line, false
			}
		}
		if end == from {
			return s.event(), nil
		}
	}
}

// findLineEnd returns the offset of the line's CR or LF, or -1.
func (s *scanner) findLineEnd() int {
	rest := s.buf[s.seek:]
	end := bytes.IndexByte(rest, '\n')
	if end >= 0 {
		rest = rest[:end]
	}
	if cr := bytes.IndexByte(rest, '\r'); cr >= 0 {
		end = cr
	}
	if end < 0 {
		s.seek = len(s.buf)
		return -1
	}
	return s.seek + end
}

// field parses a line. It reports whether the line is a field of an event.
func (s *scanner) field(from, end int) bool {
	line := s.buf[from:end]
	colon := bytes.IndexByte(line, ':')
	name, value := line, end
	if colon >= 0 {
		name, value = line[:colon], from+colon+1
		if value < end && s.buf[value] == ' ' {
			value++
		}
	}
	switch string(name) {
	case "event", "id", "retry", "": // "" is a comment
		return true
	case "data":
	default:
		return false
	}
	switch {
	case !s.hasData:
		s.hasData, s.dataFrom, s.dataTo = true, value, end
	case s.joined == nil:
		s.joined = append(bytes.Clone(s.buf[s.dataFrom:s.dataTo]), '\n')
		s.joined = append(s.joined, s.buf[value:end]...)
	default:
		s.joined = append(append(s.joined, '\n'), s.buf[value:end]...)
	}
	return true
}

// event returns the event that ends where the next line starts.
func (s *scanner) event() event {
	e := event{raw: s.buf[s.next:s.line]}
	if s.hasData {
		e.data = s.buf[s.dataFrom:s.dataTo]
		if s.joined != nil {
			e.data = s.joined
		}
		s.seen = true
	}
	s.next, s.hasData, s.joined = s.line, false, nil
	return e
}

// eventKind is what an event means for the end of its stream.
type eventKind int

const (
	eventOther  eventKind = iota
	eventFinish           // the answer is complete; usage and [DONE] may follow
	eventDone             // [DONE]
	eventError
)

func isDone(data []byte) bool { return string(bytes.TrimSpace(data)) == "[DONE]" }

// finalTypes are the types of the events that complete an answer in APIs that
// have no finish_reason.
var finalTypes = map[string]bool{
	"response.completed": true, "response.incomplete": true, "response.failed": true,
	"transcript.text.done": true, "speech.audio.done": true,
}

// kindOf classifies an event by its data. It avoids decoding, because nearly all
// events are a piece of text with choices.
func kindOf(data []byte) eventKind {
	if isDone(data) {
		return eventDone
	}
	if bytes.Contains(data, []byte(`"choices"`)) {
		if hasFinishReason(data) {
			return eventFinish
		}
		return eventOther
	}
	if isError(data) {
		return eventError
	}
	if bytes.Contains(data, []byte(`"type"`)) {
		var typed struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(data, &typed) == nil && finalTypes[typed.Type] {
			return eventFinish
		}
	}
	return eventOther
}

// hasFinishReason reports whether a choice has a finish_reason other than null.
// Quotes within strings are escaped, so the name cannot be found in a text.
func hasFinishReason(data []byte) bool {
	const name = `"finish_reason"`
	for {
		at := bytes.Index(data, []byte(name))
		if at < 0 {
			return false
		}
		data = bytes.TrimLeft(data[at+len(name):], ": \t\r\n")
		if len(data) > 0 && data[0] == '"' {
			return true
		}
	}
}

// isError reports whether a JSON text is an error instead of an answer. The
// answers of some APIs have a member named error too.
func isError(text []byte) bool {
	if !bytes.Contains(text, []byte(`"error"`)) && !bytes.Contains(text, []byte(`"providerModelError"`)) {
		return false
	}
	var members struct {
		Error              json.RawMessage `json:"error"`
		ProviderModelError json.RawMessage `json:"providerModelError"`
		Type               string          `json:"type"`
		ID                 json.RawMessage `json:"id"`
		Object             json.RawMessage `json:"object"`
		Choices            json.RawMessage `json:"choices"`
	}
	if json.Unmarshal(text, &members) != nil {
		return false
	}
	isSet := func(value json.RawMessage) bool { return len(value) > 0 && string(value) != "null" }
	if isSet(members.ProviderModelError) || members.Type == "error" {
		return true
	}
	isAnswer := members.ID != nil || members.Object != nil || members.Choices != nil
	return isSet(members.Error) && !isAnswer
}
