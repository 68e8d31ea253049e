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

// maxDepth bounds how deeply values may be nested, which bounds the recursion.
const maxDepth = 16

// check reports the first reason why data is not one JSON value.
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
	if offset := tooDeep(data); offset >= 0 {
		return &Error{offset: offset, Message: "is nested too deeply"}
	}
	return nil
}

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

// tooDeep returns where valid JSON is nested more than maxDepth deep, or -1.
func tooDeep(data []byte) int {
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

// badEscape reports what encoding/json would replace and PostgreSQL would
// refuse in the strings of valid JSON, or "".
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

// escapedUnit reads the \uXXXX that raw begins with.
func escapedUnit(raw []byte) (rune, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(n), err == nil
}

// trim removes the white space around a value; offset is what it removed in front.
func trim(data []byte) (value []byte, offset int) {
	const space = " \t\r\n"
	value = bytes.TrimLeft(data, space)
	return bytes.TrimRight(value, space), len(data) - len(value)
}

// split returns the members of an object that stands at offset, up to the
// first syntax error.
func split(object []byte, offset int) (members []Member) {
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
			Name:  name,
			Value: value,
			raw:   object[begin:end],
			name:  offset + begin,
			value: offset + int(d.InputOffset()) - len(value),
		})
	}
	return members
}
