// Package text bounds texts that come from outside before they are logged,
// stored or repeated in an answer.
package text

import (
	"strings"
	"unicode/utf8"
)

const ellipsis = "…"

// Truncate returns s as valid UTF-8 without U+0000, which PostgreSQL does not
// store, in at most limit bytes. A text that was cut ends with "…", which
// counts, unless limit has no room for it. No character is split.
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

// maxRequestID is longer than any UUID or trace id.
const maxRequestID = 128

// RequestID returns the letters, digits and -._:/+=@ of a request id, at most 128
// of them: it is sent to the node and to providers, and written to logs.
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

// Cell keeps a spreadsheet from running a CSV's text as a formula.
func Cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
