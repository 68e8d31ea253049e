package sqldb

import (
	"math"
	"strconv"
	"strings"
)

// withLiterals writes the arguments into an expanded query, so that it needs no
// parameters. It returns false if an argument is not a number, a bool or ASCII
// text; the caller then has to send parameters.
func withLiterals(query string, args []any) (string, bool) {
	var b strings.Builder
	for {
		i := strings.IndexByte(query, '$')
		if i < 0 {
			b.WriteString(query)
			return b.String(), true
		}
		b.WriteString(query[:i])
		query = query[i+1:]
		digits := len(query) - len(strings.TrimLeft(query, "0123456789"))
		n, err := strconv.Atoi(query[:digits])
		if err != nil || n < 1 || n > len(args) || !writeLiteral(&b, args[n-1]) {
			return "", false
		}
		query = query[digits:]
	}
}

// writeLiteral writes a value so that PostgreSQL reads it the same under every
// setting. A text has the type "unknown", as a parameter has. Only letters, digits and
// harmless signs are written as they are; the rest is escaped, so that no text can
// end its own literal.
func writeLiteral(b *strings.Builder, v any) bool {
	switch v := v.(type) {
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int:
		writeNumber(b, strconv.Itoa(v))
	case int64:
		writeNumber(b, strconv.FormatInt(v, 10))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
		writeNumber(b, strconv.FormatFloat(v, 'f', -1, 64))
	case string:
		b.WriteString("E'")
		for i := range len(v) {
			switch c := v[i]; {
			case c == 0 || c >= 0x80: // its bytes depend on the server's encoding
				return false
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(` -_.:,/+=@"[]{}`, c) >= 0:
				b.WriteByte(c)
			default:
				const hex = "0123456789abcdef"
				b.WriteString(`\x`)
				b.WriteByte(hex[c>>4])
				b.WriteByte(hex[c&15])
			}
		}
		b.WriteByte('\'')
	default:
		return false
	}
	return true
}

// writeNumber writes a number in parentheses, because a minus sign before a negative
// number would begin a comment.
func writeNumber(b *strings.Builder, s string) {
	b.WriteByte('(')
	b.WriteString(s)
	b.WriteByte(')')
}
