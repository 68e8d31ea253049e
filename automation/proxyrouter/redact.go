package proxyrouter

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
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
	apiKey       = regexp.MustCompile(`\b(sk|pk|rk|gsk|hf|xai|ghp)[-_][\w*-]{16,}`)

	// called is what stands before an address that was called, not recommended.
	called       = regexp.MustCompile(`(?i)\b(?:get|post|put|patch|head|delete|dial|connect|connecting|request) (?:to )?["']?$`)
	publicDomain = regexp.MustCompile(`^[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}$`)
	numberedHost = regexp.MustCompile(`\d+-\d+-\d+-\d+`) // after an IP address
	// A path of plain words, in which no key can stand.
	plainPath = regexp.MustCompile(`^[a-z0-9/._-]*$`)
	keyLike   = regexp.MustCompile(`[a-z0-9]{16,}|(?:[^0-9]*[0-9]){12,}`)
)

// internalDomains are top-level domains that are no public ones.
var internalDomains = []string{"internal", "local", "localdomain", "localhost", "lan", "corp", "home", "intranet", "private", "svc", "cluster", "consul", "arpa"}

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
// nodes, providers and backends either. A model's own error keeps its links to
// public pages, such as the one about its limits.
func (r redactor) public(s string, links bool) string {
	if r.withHosts != nil {
		s = r.withHosts.Replace(s)
	}
	s = redactURLs(s, links)
	s = netError.ReplaceAllString(s, "$1 "+redacted)
	s = hostPort.ReplaceAllString(s, redacted)
	s = shortHex.ReplaceAllString(s, "$1…")
	return removePersonal(s)
}

// redactURLs redacts every URL, or every one that is no link to a public page.
func redactURLs(s string, links bool) string {
	var b strings.Builder
	end := 0
	for _, at := range anyURL.FindAllStringIndex(s, -1) {
		b.WriteString(s[end:at[0]])
		found := redacted
		if links && !called.MatchString(s[:at[0]]) {
			found = publicLink(s[at[0]:at[1]])
		}
		b.WriteString(found)
		end = at[1]
	}
	return b.String() + s[end:]
}

// publicLink returns a link to a public page without its query, and without its
// path where that may hold a key. It redacts what may be an internal address.
func publicLink(link string) string {
	end := len(strings.TrimRight(link, ".,;:!?)]}")) // the sentence's
	u, err := url.Parse(link[:end])
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Port() != "" || !isPublic(strings.ToLower(u.Hostname())) {
		return redacted + link[end:]
	}
	path := u.EscapedPath()
	if !plainPath.MatchString(path) || keyLike.MatchString(path) {
		path = "/" + redacted
	}
	return u.Scheme + "://" + u.Host + path + link[end:]
}

func isPublic(host string) bool {
	return publicDomain.MatchString(host) && !numberedHost.MatchString(host) &&
		!slices.Contains(internalDomains, host[strings.LastIndexByte(host, '.')+1:])
}

// clean redacts a text for the log and for errors, which keep the hosts.
func (r redactor) clean(s string) string {
	if r.secrets != nil {
		s = r.secrets.Replace(s)
	}
	return removePersonal(urlTail.ReplaceAllString(s, "$1$2"))
}

// removePersonal removes credentials and personal data, and bounds the text. Truncation
// comes last: before, it could leave half a secret that no pattern matches.
func removePersonal(s string) string {
	s = credentials.ReplaceAllString(s, "$1 "+redacted)
	s = apiKey.ReplaceAllString(s, redacted)
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
