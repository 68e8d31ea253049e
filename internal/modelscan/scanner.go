package modelscan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// maxDepth limits the nesting of objects and arrays.
const maxDepth = 1024

// scanner reads the JSON in data; data[:pos] has been read.
type scanner struct {
	data []byte
	pos  int
}

// findInJSON looks for the model in data, the beginning of a JSON object.
func findInJSON(data []byte) (string, error) {
	s := scanner{data: data}
	if err := s.skipBOM(); err != nil {
		return "", err
	}
	if err := s.expect('{', "an object"); err != nil {
		return "", err
	}
	if c, err := s.peek(); err != nil || c == '}' {
		return "", err
	}
	for {
		key, err := s.key()
		if err != nil {
			return "", err
		}
		if err := s.expect(':', "a colon"); err != nil {
			return "", err
		}
		if key == "model" {
			return s.model()
		}
		if err := s.skipValue(); err != nil {
			return "", err
		}
		if c, err := s.peek(); err != nil || c == '}' {
			return "", err
		}
		if err := s.expect(',', "a comma or the end of the object"); err != nil {
			return "", err
		}
	}
}

// key reads a member's name. It returns "" for a name that is too long to be "model".
// A name without escapes needs no decoding to be compared.
func (s *scanner) key() (string, error) {
	if err := s.expect('"', "a name"); err != nil {
		return "", err
	}
	raw, err := s.restOfString()
	if err != nil {
		return "", err
	}
	const longest = len(`"\u006d\u006f\u0064\u0065\u006c"`) // "model" with every letter escaped
	if len(raw) > longest {
		return "", nil
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	return s.unquote(raw)
}

// model reads the model's value. It stops early at a value that cannot be a model.
func (s *scanner) model() (string, error) {
	c, err := s.peek()
	if err != nil {
		return "", err
	}
	switch c {
	case '{', '[':
		return "", ErrNoString
	case '"':
		s.pos++
		raw, err := s.restOfString()
		if len(raw) > MaxModel+len(`""`) {
			return "", ErrNoString // even if the string is incomplete
		}
		if err != nil {
			return "", err
		}
		return s.unquote(raw)
	}
	literal, err := s.scalar()
	switch {
	case err != nil:
		return "", err
	case literal == "null":
		return "", nil
	}
	return "", ErrNoString
}

func (s *scanner) skipValue() error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	switch c {
	case '"':
		s.pos++
		_, err = s.restOfString()
	case '{', '[':
		err = s.skipNested()
	default:
		_, err = s.scalar()
	}
	return err
}

// structural marks the bytes that skipNested has to look at.
var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// skipNested skips an object or an array. It checks only that brackets match and
// strings end.
func (s *scanner) skipNested() error {
	var arrays [maxDepth / 64]uint64 // one bit for each open bracket: 1 for an array, 0 for an object
	depth := 0
	for {
		for s.pos < len(s.data) && !structural[s.data[s.pos]] {
			s.pos++
		}
		if s.pos == len(s.data) {
			return s.incomplete()
		}
		c := s.data[s.pos]
		s.pos++
		switch c {
		case '"':
			if _, err := s.restOfString(); err != nil {
				return err
			}
		case '{', '[':
			if depth == maxDepth {
				return s.syntaxError(fmt.Sprintf("at most %d levels of nesting", maxDepth))
			}
			word, bit := depth/64, uint64(1)<<(depth%64)
			arrays[word] &^= bit
			if c == '[' {
				arrays[word] |= bit
			}
			depth++
		default:
			depth--
			isArray := arrays[depth/64]>>(depth%64)&1 == 1
			if isArray != (c == ']') {
				return s.syntaxError("matching brackets")
			}
			if depth == 0 {
				return nil
			}
		}
	}
}

// restOfString reads to the end of a string whose opening quote was the last
// byte read. It returns the string with both quotes, or the incomplete string
// and an error.
//
// A quote ends the string unless an odd number of backslashes precedes it, so it is
// faster to search for quotes than to examine every byte.
func (s *scanner) restOfString() ([]byte, error) {
	start := s.pos
	for {
		length := bytes.IndexByte(s.data[s.pos:], '"')
		if length < 0 {
			s.pos = len(s.data)
			return s.data[start-1:], s.incomplete()
		}
		quote := s.pos + length
		s.pos = quote + 1
		backslashes := 0
		for quote-backslashes > start && s.data[quote-backslashes-1] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return s.data[start-1 : s.pos], nil
		}
	}
}

// scalar reads a number, true, false or null. It checks only the first byte of a
// number.
func (s *scanner) scalar() (string, error) {
	start := s.pos
	for s.pos < len(s.data) && isScalar(s.data[s.pos]) {
		s.pos++
	}
	if s.pos == len(s.data) {
		return "", s.incomplete()
	}
	literal := string(s.data[start:s.pos])
	switch {
	case literal == "null", literal == "true", literal == "false":
		return literal, nil
	case literal != "" && strings.IndexByte("-0123456789", literal[0]) >= 0:
		return literal, nil
	}
	return "", s.syntaxError("a value")
}

func isScalar(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'E'
}

func (s *scanner) unquote(raw []byte) (string, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", s.syntaxError("a string of valid characters and escapes")
	}
	return text, nil
}

// peek skips white space and returns the next byte without reading it.
func (s *scanner) peek() (byte, error) {
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; c {
		case ' ', '\n', '\r', '\t':
		default:
			return c, nil
		}
	}
	return 0, s.incomplete()
}

// expect reads the next byte that is not white space, which must be want.
func (s *scanner) expect(want byte, name string) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c != want {
		return s.syntaxError(name)
	}
	s.pos++
	return nil
}

// skipBOM skips a byte order mark, as RFC 8259 allows.
func (s *scanner) skipBOM() error {
	const bom = "\xEF\xBB\xBF"
	rest, found := bytes.CutPrefix(s.data, []byte(bom))
	switch {
	case found:
		s.pos = len(s.data) - len(rest)
	case len(rest) < len(bom) && strings.HasPrefix(bom, string(rest)):
		return s.incomplete()
	}
	return nil
}

func (s *scanner) syntaxError(expected string) error {
	return fmt.Errorf("%w: expected %s at byte %d", ErrSyntax, expected, s.pos+1)
}

func (s *scanner) incomplete() error {
	s.pos = len(s.data)
	return ErrIncomplete
}
