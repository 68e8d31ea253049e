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
