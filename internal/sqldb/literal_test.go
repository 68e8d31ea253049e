package sqldb

import (
	"math"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func TestWithLiterals(t *testing.T) {
	for _, c := range []struct {
		query string
		args  []any
		want  string // empty: the query needs parameters
	}{
		{`SELECT 1`, nil, `SELECT 1`},
		{`a = $1 AND b = $2`, []any{"x", 7}, `a = E'x' AND b = (7)`},
		{`$2 $1 $10`, []any{1, int64(2), 3, 4, 5, 6, 7, 8, 9, 10}, `(2) (1) (10)`},
		{`5 -$1`, []any{-0.5}, `5 -(-0.5)`},
		{`$1`, []any{1e21}, `(1000000000000000000000)`},
		{`$1 $2`, []any{true, false}, `true false`},
		{`$1`, []any{`o'b\r`}, `E'o\x27b\x5cr'`},
		{`$1`, []any{`["a"]`}, `E'["a"]'`},
		{`$1`, []any{"$1"}, `E'\x241'`},
		{`$1`, []any{"é"}, ``},
		{`$1`, []any{"\x00"}, ``},
		{`$1`, []any{math.NaN()}, ``},
		{`$1`, []any{math.Inf(-1)}, ``},
		{`$1`, []any{nil}, ``},
		{`$1`, []any{[]byte("x")}, ``},
		{`$1`, nil, ``},
		{`$0`, []any{1}, ``},
		{`$`, []any{1}, ``},
	} {
		got, ok := withLiterals(c.query, c.args)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("withLiterals(%q, %v) = %q, %v; want %q", c.query, c.args, got, ok, c.want)
		}
	}
}

// literal matches every literal that writeLiteral may write for a text.
var literal = regexp.MustCompile(`^E'([a-zA-Z0-9 _.:,/+=@"\[\]{}-]|\\x[0-9a-f]{2})*'$`)

// FuzzLiteral checks that PostgreSQL reads the literal of a text as that text, under
// the settings that change the meaning of a backslash.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"", "user-1", "'", `\`, `\'`, `''; DROP TABLE x; --`, "a\nb\t", "$1", "%", "é", "\x7f", "E'", "/*", "\r\n", "\x1b"} {
		f.Add(s)
	}
	pool := pgtest.Open(f, pgtest.Database(f))
	pool.SetMaxOpenConns(1)
	for _, s := range []string{`SET standard_conforming_strings = off`, `SET backslash_quote = off`} {
		if _, err := pool.ExecContext(f.Context(), s); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		query, ok := withLiterals(`$1`, []any{text})
		ascii := utf8.RuneCountInString(text) == len(text) && !strings.ContainsFunc(text, func(r rune) bool { return r == 0 || r >= utf8.RuneSelf })
		if ok != ascii {
			t.Fatalf("%q: literal %v, want %v, because only ASCII text becomes a literal", text, ok, ascii)
		}
		if !ok {
			return
		}
		if !literal.MatchString(query) {
			t.Errorf("the literal of %q is %s, which has characters that should be escaped", text, query)
		}
		var got string
		if err := pool.GetContext(t.Context(), &got, `SELECT CAST(`+query+` AS text)`); err != nil || got != text {
			t.Errorf("PostgreSQL reads the literal of %q as %q, error %v", text, got, err)
		}
	})
}
