package proxyrouter

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// maxMessage bounds a message of the node, in bytes.
const maxMessage = 300

const redacted = "[redacted]"

var (
	urlTail = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)(?:[^\s/@"']*@)?([^\s/?#"'@]+)[^\s"']*`)
	// Addresses on the network: URLs, Go's network errors, IP addresses, hosts with a port.
	anyURL       = regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]*://[^\s"'<>]+`)
	netError     = regexp.MustCompile(`\b((?:dial|read|write) (?:tcp|udp)[46]?|lookup) [^\s"']+`)
	hostPort     = regexp.MustCompile(`(?i)(?:\[[0-9a-f:.]*:[0-9a-f:.]*\]|\blocalhost|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}):\d{1,5}\b|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?\b`)
	shortHex     = regexp.MustCompile(`(?i)\b(0x[0-9a-f]{4})[0-9a-f]{36}\b`) // an account
	longHex      = regexp.MustCompile(`(?i)\b((?:0x)?[0-9a-f]{6})[0-9a-f]{58}\b`)
	emailAddress = regexp.MustCompile(`[\w.+-]+@[\w-]+\.[\w.-]+`)
	credentials  = regexp.MustCompile(`(?i)\b(basic|bearer)\s+[\w+/=.~-]{6,}`)
)

// redactor removes secrets and personal data from the node's text.
type redactor struct {
	secrets   *strings.Replacer
	withHosts *strings.Replacer // and the node's own host
}

func newRedactor(username, password string, hosts ...string) redactor {
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
	if len(username) > 2 { // a shorter one occurs in ordinary words
		add(username)
	}
	r := redactor{secrets: strings.NewReplacer(pairs...)}
	for _, host := range hosts {
		pairs = append(pairs, host, redacted)
	}
	r.withHosts = strings.NewReplacer(pairs...)
	return r
}

// public redacts a text for a client, who has no business with the addresses of
// nodes, providers and backends either.
func (r redactor) public(s string) string {
	if r.withHosts != nil {
		s = r.withHosts.Replace(s)
	}
	s = anyURL.ReplaceAllString(s, redacted)
	s = netError.ReplaceAllString(s, "$1 "+redacted)
	s = hostPort.ReplaceAllString(s, redacted)
	s = shortHex.ReplaceAllString(s, "$1…")
	return r.clean(s)
}

// clean redacts a text and bounds it. Truncation comes last: before, it could
// leave half a secret that no pattern matches.
func (r redactor) clean(s string) string {
	if r.secrets != nil {
		s = r.secrets.Replace(s)
	}
	s = credentials.ReplaceAllString(s, "$1 "+redacted)
	s = urlTail.ReplaceAllString(s, "$1$2")
	s = emailAddress.ReplaceAllString(s, redacted)
	s = longHex.ReplaceAllString(s, "$1…")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return text.Truncate(strings.TrimSpace(s), maxMessage)
}
