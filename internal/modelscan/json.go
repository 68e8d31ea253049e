package modelscan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

const (
	maxDepth = 1024 // of brackets in brackets
	maxKey   = 32   // bytes: "model" with every letter escaped, and its quotes
)

// scanner walks over JSON.
type scanner struct {
	tape *tape
	buf  []byte // read, but not yet looked at
}

// object finds the model in the object that is the body.
func (s *scanner) object(found *Result) error {
	if err := s.skipBOM(); err != nil {
		return err
	}
	if err := s.expect('{', "an object"); err != nil {
		return err
	}
	c, err := s.token()
	if err != nil || c == '}' {
		return err
	}
	for {
		isModel, err := s.key()
		if err != nil {
			return err
		}
		if err := s.expect(':', "a colon"); err != nil {
			return err
		}
		if isModel {
			return s.model(found)
		}
		if err := s.skipValue(); err != nil {
			return err
		}
		c, err := s.token()
		if err != nil || c == '}' {
			return err
		}
		if err := s.expect(',', "a comma or the end of the object"); err != nil {
			return err
		}
	}
}

// key takes a name and says whether it is the model's.
func (s *scanner) key() (bool, error) {
	if err := s.expect('"', "a name"); err != nil {
		return false, err
	}
	raw, err := s.text(maxKey)
	if err != nil || len(raw) > maxKey {
		return false, err
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw) == `"model"`, nil
	}
	name, err := s.unquote(raw)
	return name == "model", err
}

// model takes the value that stands at the model.
func (s *scanner) model(found *Result) error {
	c, err := s.token()
	if err != nil {
		return err
	}
	if c != '"' {
		// A value that cannot be the model is only begun, not checked to its end.
		kind := Invalid
		if c != '{' && c != '[' {
			literal, err := s.scalar()
			if err != nil {
				return err
			}
			if literal == "null" {
				kind = Null
			}
		}
		found.Kind = kind
		return nil
	}
	s.buf = s.buf[1:]
	raw, err := s.text(MaxModel + 2)
	if err != nil {
		return err
	}
	if len(raw) > MaxModel+2 {
		found.Kind = Invalid
		return nil
	}
	model, err := s.unquote(raw)
	if err != nil {
		return err
	}
	found.Kind, found.Model = Text, model
	return nil
}

// scalar takes a number, true, false or null. Of a number it returns and
// judges only the beginning.
func (s *scanner) scalar() (string, error) {
	var text []byte
	for {
		err := s.fill()
		if err != nil {
			return "", err
		}
		i := 0
		for i < len(s.buf) && isScalar(s.buf[i]) {
			i++
		}
		if room := 8 - len(text); room > 0 {
			text = append(text, s.buf[:min(i, room)]...)
		}
		s.buf = s.buf[i:]
		if len(s.buf) > 0 {
			break
		}
	}
	switch literal := string(text); {
	case literal == "null", literal == "true", literal == "false":
		return literal, nil
	case literal != "" && (literal[0] == '-' || '0' <= literal[0] && literal[0] <= '9'):
		return literal, nil
	}
	return "", s.wrong("a value")
}

func isScalar(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'E'
}

func (s *scanner) unquote(raw []byte) (string, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", s.wrong("a string of valid characters and escapes")
	}
	return text, nil
}

// token passes white space and returns the byte after it, without taking it.
func (s *scanner) token() (byte, error) {
	for {
		if err := s.fill(); err != nil {
			return 0, err
		}
		for i, c := range s.buf {
			if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
				s.buf = s.buf[i:]
				return c, nil
			}
		}
		s.buf = nil
	}
}

// expect takes the next token, which must be want.
func (s *scanner) expect(want byte, name string) error {
	c, err := s.token()
	if err != nil {
		return err
	}
	if c != want {
		return s.wrong(name)
	}
	s.buf = s.buf[1:]
	return nil
}

// skipBOM passes a byte order mark, as RFC 8259 lets a reader do.
func (s *scanner) skipBOM() error {
	if err := s.fill(); err != nil || s.buf[0] != '\xEF' {
		return err
	}
	for _, want := range []byte("\xEF\xBB\xBF") {
		if err := s.fill(); err != nil {
			return err
		}
		if s.buf[0] != want {
			return s.wrong("an object")
		}
		s.buf = s.buf[1:]
	}
	return nil
}

// fill makes sure that there is something to look at.
func (s *scanner) fill() error {
	if len(s.buf) > 0 {
		return nil
	}
	var err error
	s.buf, err = s.tape.next()
	if err == io.EOF { //nolint:errorlint // io.Reader's contract
		return s.wrong("more")
	}
	return err
}

func (s *scanner) wrong(expected string) error {
	return fmt.Errorf("%w: expected %s at byte %d", ErrSyntax, expected, s.tape.size-int64(len(s.buf))+1)
}
