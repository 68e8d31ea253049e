package mapping

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName bounds a name, in bytes. Nothing longer is in a table, so nothing
// longer is looked for.
const maxName = 256

// defaultName is the reserved name, in any letter case.
const defaultName = "default"

// fold writes s into the empty dst, in the one spelling that all its letter
// cases share: two valid strings fold alike exactly when strings.EqualFold
// holds. The spelling is never longer than s, so maxName bytes always do.
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

// foldRune returns the smallest rune that equals r under simple case folding,
// or its lower case where that is ASCII.
func foldRune(r rune) rune {
	least := r
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		least = min(least, o)
	}
	if least < utf8.RuneSelf {
		return rune(lower(byte(least))) //nolint:gosec // below utf8.RuneSelf
	}
	return least
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

// checkName says what is wrong with a name, or nothing.
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
			return "the name holds U+FFFD or is not valid UTF-8"
		}
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("the name holds %U, which does not print", r)
		}
	}
	if _, ok := parseID(name); ok {
		return "the name looks like a model id"
	}
	return ""
}

// parseID returns s in lower case where it is 0x and 64 hex digits of any case.
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

// excerpt bounds what an error repeats of its input.
func excerpt(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
