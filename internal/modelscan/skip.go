package modelscan

import (
	"bytes"
	"fmt"
)

// skipValue passes one value.
func (s *scanner) skipValue() error {
	c, err := s.token()
	if err != nil {
		return err
	}
	switch c {
	case '"':
		s.buf = s.buf[1:]
		_, err = s.text(0)
	case '{', '[':
		err = s.skipNested()
	default:
		_, err = s.scalar()
	}
	return err
}

// structural marks what skipNested has to look at.
var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// skipNested passes an object or a list. It pairs brackets and knows strings;
// what stands between them is not judged.
func (s *scanner) skipNested() error {
	var lists [maxDepth / 64]uint64 // a bit for each open bracket: is it a list?
	depth := 0
	for {
		if err := s.fill(); err != nil {
			return err
		}
		i := 0
		for i < len(s.buf) && !structural[s.buf[i]] {
			i++
		}
		if i == len(s.buf) {
			s.buf = nil
			continue
		}
		c := s.buf[i]
		s.buf = s.buf[i+1:]
		switch c {
		case '"':
			if _, err := s.text(0); err != nil {
				return err
			}
		case '{', '[':
			if depth == maxDepth {
				return s.wrong(fmt.Sprintf("at most %d brackets in brackets", maxDepth))
			}
			word, bit := depth/64, uint64(1)<<(depth%64)
			lists[word] &^= bit
			if c == '[' {
				lists[word] |= bit
			}
			depth++
		default:
			depth--
			isList := lists[depth/64]>>(depth%64)&1 == 1
			if isList != (c == ']') {
				return s.wrong("brackets in pairs")
			}
			if depth == 0 {
				return nil
			}
		}
	}
}

// text passes a string whose opening quote is behind us. It returns the string
// with its quotes, or something longer than limit if it is longer than that.
//
// A quote ends the string unless the run of backslashes before it is odd, so
// only quotes need looking for, and not every escape.
func (s *scanner) text(limit int) ([]byte, error) {
	var raw []byte
	if limit > 0 {
		raw = append(make([]byte, 0, maxKey), '"')
	}
	odd := false // whether an odd run of backslashes stands before s.buf
	for {
		if err := s.fill(); err != nil {
			return nil, err
		}
		length, ended := len(s.buf), false
		for from := 0; ; {
			quote := bytes.IndexByte(s.buf[from:], '"')
			if quote < 0 {
				odd = oddRun(s.buf[from:], odd && from == 0)
				break
			}
			if !oddRun(s.buf[from:from+quote], odd && from == 0) {
				length, ended = from+quote+1, true
				break
			}
			from += quote + 1
		}
		if len(raw) <= limit && limit > 0 {
			raw = append(raw, s.buf[:min(length, limit+1)]...)
		}
		s.buf = s.buf[length:]
		if ended {
			return raw, nil
		}
	}
}

// oddRun reports whether b ends in an odd run of backslashes; odd is whether
// one stands before it.
func oddRun(b []byte, odd bool) bool {
	i := len(b)
	for i > 0 && b[i-1] == '\\' {
		i--
	}
	return (len(b)-i)%2 == 1 != (odd && i == 0)
}
