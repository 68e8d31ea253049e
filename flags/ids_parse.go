package flags

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ParseIDs reads a JSON list of ids: whole numbers, as they are written, and
// texts that are not empty. Anything else is an error, which names the place
// and never shows an id.
func ParseIDs(list string) (IDs, error) {
	if len(list) > MaxList {
		return IDs{}, fmt.Errorf("the list has %d bytes, at most %d are allowed", len(list), MaxList)
	}
	p := scanner{text: list}
	if p.next() != '[' {
		return IDs{}, fmt.Errorf("a list is wanted, not %s", p.kind())
	}
	p.pos++
	if p.next() == ']' {
		p.pos++
		return IDs{}, p.end()
	}
	ids := make([]byte, 0, len(list))
	for n := 1; ; n++ {
		p.next()
		id, err := p.id()
		if err != nil {
			return IDs{}, fmt.Errorf("element %d: %w", n, err)
		}
		ids = appendID(ids, id)
		switch p.next() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return pack(ids, n), p.end()
		default:
			return IDs{}, fmt.Errorf("after element %d: a comma or the list's end is wanted, not %s", n, p.kind())
		}
	}
}

// scanner reads JSON; encoding/json would make a million ids cost a million
// interfaces, and would take what PostgreSQL refuses.
type scanner struct {
	text string
	pos  int
}

// next skips white space and returns the byte there, 0 at the end.
func (p *scanner) next() byte {
	for ; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (p *scanner) end() error {
	if p.next() != 0 || p.pos < len(p.text) {
		return fmt.Errorf("after the list: nothing is wanted, not %s", p.kind())
	}
	return nil
}

// kind names what stands here.
func (p *scanner) kind() string {
	if p.pos >= len(p.text) {
		return "the end"
	}
	switch c := p.text[p.pos]; {
	case c == '{':
		return "an object"
	case c == '[':
		return "a list"
	case c == '"':
		return "a text"
	case c == '-' || digit(c):
		return "a number"
	case c == 't' || c == 'f':
		return "true or false"
	case c == 'n':
		return "null"
	}
	return "something that is no JSON"
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func (p *scanner) id() (string, error) {
	var c byte
	if p.pos < len(p.text) {
		c = p.text[p.pos]
	}
	switch {
	case c == '"':
		id, err := p.str()
		if err != nil {
			return "", err
		}
		return id, checkID(id)
	case c == '-' || digit(c):
		return p.number()
	}
	return "", fmt.Errorf("a whole number or a text is wanted, not %s", p.kind())
}

// checkID tells what PostgreSQL or the tables' constraints would not take.
func checkID(id string) error {
	if id == "" {
		return fmt.Errorf("an empty text is no id")
	}
	return checkText(id)
}

func checkText(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("the text is no valid UTF-8")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("the text holds U+0000")
	}
	return nil
}

func (p *scanner) number() (string, error) {
	start := p.pos
	if p.text[p.pos] == '-' {
		p.pos++
	}
	first := p.pos
	for p.pos < len(p.text) && digit(p.text[p.pos]) {
		p.pos++
	}
	if p.pos == first || p.text[first] == '0' && p.pos > first+1 {
		return "", fmt.Errorf("that is no JSON number")
	}
	if p.pos < len(p.text) && strings.IndexByte(".eE", p.text[p.pos]) >= 0 {
		return "", fmt.Errorf("a whole number is wanted, without fraction or exponent")
	}
	if p.text[first] == '0' {
		return "0", nil // -0 as well
	}
	return p.text[start:p.pos], nil
}

func (p *scanner) str() (string, error) {
	p.pos++
	start := p.pos
	for ; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; {
		case c == '"':
			p.pos++
			return p.text[start : p.pos-1], nil
		case c == '\\':
			return p.escaped([]byte(p.text[start:p.pos]))
		case c < ' ':
			return "", fmt.Errorf("the text holds a control character")
		}
	}
	return "", fmt.Errorf("the text has no end")
}

// escaped goes on with a text from its first escape; b is what stood before.
func (p *scanner) escaped(b []byte) (string, error) {
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		p.pos++
		switch {
		case c == '"':
			return string(b), nil
		case c < ' ':
			return "", fmt.Errorf("the text holds a control character")
		case c != '\\':
			b = append(b, c)
			continue
		}
		if p.pos == len(p.text) {
			break
		}
		c = p.text[p.pos]
		p.pos++
		if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
			b = append(b, "\"\\/\b\f\n\r\t"[i])
			continue
		}
		r, ok := rune(-1), false
		if c == 'u' {
			r, ok = p.hex()
		}
		if ok && utf16.IsSurrogate(r) {
			var low rune
			if ok = strings.HasPrefix(p.text[p.pos:], `\u`); ok {
				p.pos += 2
				low, ok = p.hex()
				r = utf16.DecodeRune(r, low)
				ok = ok && r != utf8.RuneError
			}
		}
		if !ok {
			return "", fmt.Errorf("the text holds an escape that is none")
		}
		b = utf8.AppendRune(b, r)
	}
	return "", fmt.Errorf("the text has no end")
}

// hex reads four hexadecimal digits.
func (p *scanner) hex() (r rune, ok bool) {
	if len(p.text)-p.pos < 4 {
		return 0, false
	}
	for _, c := range []byte(p.text[p.pos : p.pos+4]) {
		switch {
		case digit(c):
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	p.pos += 4
	return r, true
}
