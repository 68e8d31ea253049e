package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth limits the nesting of values, and so the decoder's recursion.
const maxDepth = 16

// check returns the first reason why data is not exactly one JSON value, or nil.
func check(data []byte) *Error {
	if len(bytes.TrimSpace(data)) == 0 {
		return &Error{Message: "is empty"}
	}
	if !utf8.Valid(data) {
		return &Error{offset: len(validPrefix(data)), Message: "is not valid UTF-8"}
	}
	var value json.RawMessage
	if err := json.Unmarshal(data, &value); err != nil {
		offset := int64(1)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = syntax.Offset
		}
		return &Error{offset: max(0, int(offset)-1), Message: fmt.Sprintf("is not valid JSON: %v", err)}
	}
	if offset := findTooDeep(data); offset >= 0 {
		return &Error{offset: offset, Message: "is nested too deeply"}
	}
	return nil
}

// validPrefix returns the bytes before the first one that is not valid UTF-8.
func validPrefix(data []byte) []byte {
	rest := data
	for len(rest) > 0 {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 {
			break
		}
		rest = rest[size:]
	}
	return data[:len(data)-len(rest)]
}

// findTooDeep returns the offset at which valid JSON exceeds maxDepth, or -1.
func findTooDeep(data []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return i
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return -1
}

// badEscape returns a message about the first escape in valid JSON that encoding/json
// would silently replace or PostgreSQL would reject, or "".
func badEscape(raw []byte) string {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return ""
		}
		r, ok := escapedUnit(raw[i:])
		if !ok {
			raw = raw[i+2:]
			continue
		}
		raw = raw[i+6:]
		switch {
		case r == 0:
			return "must not contain the character U+0000"
		case utf16.IsSurrogate(r):
			low, ok := escapedUnit(raw)
			if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
				return "must not contain half a surrogate pair"
			}
			raw = raw[6:]
		}
	}
}

// escapedUnit returns the UTF-16 code unit of the \uXXXX at the start of raw, or false.
func escapedUnit(raw []byte) (rune, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(n), err == nil
}

// trim removes the white space around a value; offset is where the value starts in data.
func trim(data []byte) (value []byte, offset int) {
	const space = " \t\r\n"
	value = bytes.TrimLeft(data, space)
	return bytes.TrimRight(value, space), len(data) - len(value)
}

// splitObject returns the members of an object up to the first syntax error. offset is
// where the object starts in the text.
func splitObject(object []byte, offset int) (members []Member) {
	d := json.NewDecoder(bytes.NewReader(object))
	_, _ = d.Token()
	for d.More() {
		before := int(d.InputOffset())
		token, err := d.Token()
		end := int(d.InputOffset())
		name, ok := token.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			break
		}
		begin := before + bytes.IndexByte(object[before:], '"')
		members = append(members, Member{
			Name:        name,
			Value:       value,
			rawName:     object[begin:end],
			nameOffset:  offset + begin,
			valueOffset: offset + int(d.InputOffset()) - len(value),
		})
	}
	return members
}
