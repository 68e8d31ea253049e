package proxyrouter

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxMessage bounds a message in bytes; what the node says beyond it is cut.
const maxMessage = 300

const redacted = "[redacted]"

var (
	urlTail   = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)(?:[^\s/@"']*@)?([^\s/?#"'@]+)[^\s"']*`)
	longHex   = regexp.MustCompile(`(?i)\b((?:0x)?[0-9a-f]{6})[0-9a-f]{58}\b`)
	mailbox   = regexp.MustCompile(`[\w.+-]+@[\w-]+\.[\w.-]+`)
	anyBearer = regexp.MustCompile(`(?i)\b(basic|bearer)\s+[\w+/=.~-]{6,}`)
)

// redactor makes foreign text fit for an error or a log line.
type redactor struct{ secrets *strings.Replacer }

func newRedactor(username, password string) redactor {
	var pairs []string
	add := func(secret string) {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			pairs = append(pairs, form, redacted)
		}
	}
	if username != "" || password != "" {
		add(base64.StdEncoding.EncodeToString([]byte(username + ":" + password)))
	}
	if password != "" {
		add(password)
	}
	if len(username) > 2 { // a shorter one would only tear words apart
		add(username)
	}
	return redactor{strings.NewReplacer(pairs...)}
}

// clean removes secrets first, then what may be private, then cuts: cutting
// first could leave half a secret that nothing recognises.
func (r redactor) clean(text string) string {
	if r.secrets != nil {
		text = r.secrets.Replace(text)
	}
	text = anyBearer.ReplaceAllString(text, "$1 "+redacted)
	text = urlTail.ReplaceAllString(text, "$1$2")
	text = mailbox.ReplaceAllString(text, redacted)
	text = longHex.ReplaceAllString(text, "$1…")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimSpace(text)
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
