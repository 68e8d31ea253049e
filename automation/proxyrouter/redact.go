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
	// A URL; its scheme and its host are groups.
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

	// called matches the words before an address that was called, not recommended.
	called       = regexp.MustCompile(`(?i)\b(?:get|post|put|patch|head|delete|dial|connect|connecting|request) (?:to )?["']?$`)
	publicDomain = regexp.MustCompile(`^[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}$`)
	numberedHost = regexp.MustCompile(`\d+-\d+-\d+-\d+`) // a host named after its IP address
	// A path holds no key if it matches plainPath and not keyLike.
	plainPath = regexp.MustCompile(`^[a-z0-9/._-]*$`)
	keyLike   = regexp.MustCompile(`[a-z0-9]{16,}|(?:[^0-9]*[0-9]){12,}`)
)

// internalDomains are the top-level domains of private networks.
var internalDomains = []string{"internal", "local", "localdomain", "localhost", "lan", "corp", "home", "intranet", "private", "svc", "cluster", "consul", "arpa"}

// redactor removes secrets and personal data from the node's text.
type redactor struct {
	secrets   *strings.Replacer
	withHosts *strings.Replacer // the secrets and the node's own host
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

// public redacts a text for a client. In addition to secrets, it removes the
// addresses of nodes, providers and backends. With keepLinks it keeps links to
// public pages: a model's own error may link to a page about its limits.
func (r redactor) public(s string, keepLinks bool) string {
	if r.withHosts != nil {
		s = r.withHosts.Replace(s)
	}
	s = redactURLs(s, keepLinks)
	s = netError.ReplaceAllString(s, "$1 "+redacted)
	s = hostPort.ReplaceAllString(s, redacted)
	s = shortHex.ReplaceAllString(s, "$1…")
	return removePersonal(s)
}

// redactURLs redacts every URL. With keepLinks it keeps links to public pages.
func redactURLs(s string, keepLinks bool) string {
	var b strings.Builder
	end := 0
	for _, at := range anyURL.FindAllStringIndex(s, -1) {
		b.WriteString(s[end:at[0]])
		replacement := redacted
		if keepLinks && !called.MatchString(s[:at[0]]) {
			replacement = publicLink(s[at[0]:at[1]])
		}
		b.WriteString(replacement)
		end = at[1]
	}
	return b.String() + s[end:]
}

// publicLink returns a link to a public page without its query, and without its
// path if that may hold a key. It redacts any other link.
func publicLink(link string) string {
	end := len(strings.TrimRight(link, ".,;:!?)]}")) // without the punctuation of the sentence
	u, err := url.Parse(link[:end])
	if err != nil || !isPublic(u) {
		return redacted + link[end:]
	}
	path := u.EscapedPath()
	if !plainPath.MatchString(path) || keyLike.MatchString(path) {
		path = "/" + redacted
	}
	return u.Scheme + "://" + u.Host + path + link[end:]
}

// isPublic reports whether a URL certainly has no internal address.
func isPublic(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	return (u.Scheme == "https" || u.Scheme == "http") && u.User == nil && u.Port() == "" &&
		publicDomain.MatchString(host) && !numberedHost.MatchString(host) &&
		!slices.Contains(internalDomains, host[strings.LastIndexByte(host, '.')+1:])
}

// clean redacts a text for the log and for errors. It keeps the hosts of URLs.
func (r redactor) clean(s string) string {
	if r.secrets != nil {
		s = r.secrets.Replace(s)
	}
	return removePersonal(urlTail.ReplaceAllString(s, "$1$2"))
}

// removePersonal removes credentials and personal data, and truncates the text. It
// truncates last: half of a secret would match no pattern.
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
