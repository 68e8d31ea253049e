package mapping

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the longest name that a table holds, in bytes. Resolve does not look
// up longer ones.
const maxName = 256

// defaultName is the reserved name of the default, in any letter case.
const defaultName = "default"

// fold appends s to the empty dst in a canonical letter case: two valid strings
// have the same result if and only if strings.EqualFold reports true. The result
// is never longer than s.
func fold(dst []byte, s string) []byte {
	dst = append(dst, s...)
	for i, c := range dst {
		if c >= utf8.RuneSelf {
			dst = dst[:i]
			for _, r := range s[i:] {
				dst = utf8.AppendRune(dst, foldRune(r))
			}
			return dst
		}
		dst[i] = lower(c)
	}
	return dst
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// foldRune returns the smallest rune that equals r under simple case folding; if
// that is ASCII, its lower case.
func foldRune(r rune) rune {
	smallest := r
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		smallest = min(smallest, o)
	}
	if smallest < utf8.RuneSelf {
		return rune(lower(byte(smallest))) //nolint:gosec // below utf8.RuneSelf
	}
	return smallest
}

func foldString(s string) string { return string(fold(make([]byte, 0, len(s)), s)) }

// slug turns a folded name into its slug, in place.
func slug(folded []byte) []byte {
	for i, c := range folded {
		if c == ' ' {
			folded[i] = '-'
		}
	}
	return folded
}

func slugString(folded string) string { return strings.ReplaceAll(folded, " ", "-") }

// checkName returns what is wrong with a name, or "" for a valid name.
func checkName(name string) string {
	switch {
	case name == "":
		return "the name is empty"
	case len(name) > maxName:
		return fmt.Sprintf("the name has %d bytes, at most %d are allowed", len(name), maxName)
	case strings.TrimSpace(name) != name:
		return "the name starts or ends with a space"
	}
	for _, r := range name {
		if r == utf8.RuneError {
			return "the name contains U+FFFD or is not valid UTF-8"
		}
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("the name contains %U, which is not a printing character", r)
		}
	}
	if _, ok := parseID(name); ok {
		return "the name looks like a model id"
	}
	return ""
}

// parseID returns s in lower case. It returns false unless s is 0x and 64 hex
// digits of any case.
func parseID(s string) (string, bool) {
	if len(s) != 66 || s[:2] != "0x" {
		return "", false
	}
	for _, c := range []byte(s[2:]) {
		if c = lower(c); (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return strings.ToLower(s), true
}

// excerpt shortens what an error quotes of its input to about 80 bytes.
func excerpt(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
