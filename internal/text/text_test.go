package text_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, s string
		limit   int
		want    string
	}{
		{"a short text stays", "short", 80, "short"},
		{"a text of exactly the limit stays", "12345", 5, "12345"},
		{"the limit includes the ellipsis of a longer text", "1234567", 6, "123…"},
		{"no character is split", "aäöü", 6, "aä…"},
		{"no character of four bytes is split", "🙂🙂🙂", 10, "🙂…"},
		{"no room for the ellipsis", "abcdef", 2, "ab"},
		{"no room for half a character", "äöü", 1, ""},
		{"no room at all", "abc", 0, ""},
		{"a negative limit", "abc", -1, ""},
		{"NUL is removed", "a\x00b", 80, "ab"},
		{"invalid UTF-8 is removed", "a\xffb\xc3", 80, "ab"},
		{"a text that fits after cleaning has no ellipsis", "\x00\x00\x00abc", 3, "abc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := text.Truncate(c.s, c.limit); got != c.want {
				t.Errorf("Truncate(%q, %d) = %q, want %q", c.s, c.limit, got, c.want)
			}
		})
	}
}

func FuzzTruncate(f *testing.F) {
	f.Add("aä🙂\x00\xff", 5)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		got := text.Truncate(s, limit)
		if !utf8.ValidString(got) || strings.ContainsRune(got, 0) || len(got) > max(limit, 0) {
			t.Errorf("Truncate(%q, %d) = %q, want valid UTF-8 without NUL within the limit", s, limit, got)
		}
	})
}

func TestRequestID_KeepsOnlySafeCharacters(t *testing.T) {
	for id, want := range map[string]string{
		"":                               "",
		"req-1_a.b:c/d+e=@":              "req-1_a.b:c/d+e=@",
		"a\r\nSet-Cookie: x\x00":         "aSet-Cookie:x",
		"ünïcode":                        "ncode",
		strings.Repeat("é", 1<<20) + "a": "",
		strings.Repeat("a", 1<<20):       strings.Repeat("a", 128),
	} {
		if got := text.RequestID(id); got != want {
			t.Errorf("RequestID(%.20q) = %.20q, want %.20q", id, got, want)
		}
	}
}

func TestCell_QuotesFormulas(t *testing.T) {
	for in, want := range map[string]string{"": "", "plain": "plain", "=1+1": "'=1+1", "-1": "'-1", "@x": "'@x", "\tx": "'\tx", "é": "é"} {
		if got := text.Cell(in); got != want {
			t.Errorf("Cell(%q) = %q, want %q", in, got, want)
		}
	}
}
