// Package text cleans and bounds untrusted text before it is logged, stored or sent
// in a response.
package text

import (
	"strings"
	"unicode/utf8"
)

const ellipsis = "…"

// Truncate returns s as valid UTF-8 without U+0000, which PostgreSQL does not
// store, in at most limit bytes. A truncated text ends with "…", which is included in
// limit, unless limit is too small for it. No character is split.
func Truncate(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) <= limit {
		return s
	}
	end, mark := limit-len(ellipsis), ellipsis
	if end < 0 {
		end, mark = max(limit, 0), ""
	}
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// maxRequestID is in characters; it is longer than any UUID or trace id.
const maxRequestID = 128

// RequestID removes all characters of a request id except ASCII letters, digits and
// -._:/+=@, and truncates it to 128: the id is sent to the node and to providers, and logged.
func RequestID(id string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune("-._:/+=@", r):
			return r
		}
		return -1
	}, id[:min(len(id), 4*maxRequestID)])
	return clean[:min(len(clean), maxRequestID)]
}

// Cell returns s for a CSV file, with a quote in front if a spreadsheet would run it
// as a formula.
func Cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
