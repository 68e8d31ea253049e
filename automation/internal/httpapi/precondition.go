package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// ETag is the entity tag of a version.
func ETag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// NotModified reports whether the request's If-None-Match lists etag.
func NotModified(r *http.Request, etag string) bool {
	return listed(parseTags(r.Header.Values("If-None-Match")), etag, weakly)
}

// Preconditions are those of a write, as RFC 9110 has them in section 13.1:
// If-Match lists the versions that may be overwritten, and If-None-Match those
// that may not.
type Preconditions struct {
	match, noneMatch []string // nil: the header is not there
}

// ReadPreconditions reads those of a request.
func ReadPreconditions(r *http.Request) Preconditions {
	return Preconditions{parseTags(r.Header.Values("If-Match")), parseTags(r.Header.Values("If-None-Match"))}
}

// None reports whether there are none, or only that something is there, which
// it always is.
func (p Preconditions) None() bool {
	return p.noneMatch == nil && (p.match == nil || slices.Equal(p.match, []string{"*"}))
}

// Version returns the only version that may be overwritten, where there is
// exactly one.
func (p Preconditions) Version() (int64, bool) {
	if p.noneMatch != nil || len(p.match) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.Trim(p.match[0], `"`), 10, 64)
	return n, err == nil && n >= 0 && p.match[0] == ETag(n)
}

// Hold reports whether a version may be overwritten. Stored is false where
// nothing is stored, for If-None-Match: *.
func (p Preconditions) Hold(version int64, stored bool) bool {
	etag := ETag(version)
	if p.match != nil && !listed(p.match, etag, strongly) {
		return false
	}
	if slices.Contains(p.noneMatch, "*") {
		return !stored
	}
	return !listed(p.noneMatch, etag, weakly)
}

// How entity tags are compared.
func strongly(a, b string) bool { return a == b }
func weakly(a, b string) bool   { return strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/") }

func listed(tags []string, etag string, equal func(a, b string) bool) bool {
	return slices.ContainsFunc(tags, func(tag string) bool { return tag == "*" || equal(tag, etag) })
}

// parseTags takes the lists of entity tags in a header apart; nil is no header.
// What is no tag is kept as it is and equals none.
func parseTags(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	tags := []string{}
	for _, v := range values {
		for v = strings.Trim(v, " \t,"); v != ""; v = strings.Trim(v, " \t,") {
			end := tagEnd(v)
			tags = append(tags, strings.TrimSpace(v[:end]))
			v = v[end:]
		}
	}
	return tags
}

// tagEnd is where the first tag of a list ends. A tag's quotes may hold commas.
func tagEnd(list string) int {
	quoted := false
	for i, c := range list {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return i
		}
	}
	return len(list)
}
