package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// ETag is a version as an entity tag.
func ETag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// NotModified reports whether the request's If-None-Match lists etag.
func NotModified(r *http.Request, etag string) bool {
	return isListed(parseTags(r.Header.Values("If-None-Match")), etag, equalWeak)
}

// Preconditions are the conditions of a write (RFC 9110, section 13.1):
// If-Match lists the versions that may be overwritten, and If-None-Match those
// that may not.
type Preconditions struct {
	match, noneMatch []string // nil: the request has no such header
}

// ReadPreconditions reads the preconditions of a request.
func ReadPreconditions(r *http.Request) Preconditions {
	return Preconditions{parseTags(r.Header.Values("If-Match")), parseTags(r.Header.Values("If-None-Match"))}
}

// None reports whether any version may be overwritten: the request has no
// condition, or only If-Match: *, which any existing resource meets.
func (p Preconditions) None() bool {
	return p.noneMatch == nil && (p.match == nil || slices.Equal(p.match, []string{"*"}))
}

// Version returns the version that may be overwritten, if the request names
// exactly one.
func (p Preconditions) Version() (int64, bool) {
	if p.noneMatch != nil || len(p.match) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.Trim(p.match[0], `"`), 10, 64)
	return n, err == nil && n >= 0 && p.match[0] == ETag(n)
}

// Hold reports whether version may be overwritten. stored is false if nothing
// is stored yet; If-None-Match: * requires that.
func (p Preconditions) Hold(version int64, stored bool) bool {
	etag := ETag(version)
	if p.match != nil && !isListed(p.match, etag, equalStrong) {
		return false
	}
	if slices.Contains(p.noneMatch, "*") {
		return !stored
	}
	return !isListed(p.noneMatch, etag, equalWeak)
}

// equalStrong and equalWeak compare entity tags as RFC 9110, section 8.8.3.2,
// defines.
func equalStrong(a, b string) bool { return a == b }
func equalWeak(a, b string) bool {
	return strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/")
}

func isListed(tags []string, etag string, equal func(a, b string) bool) bool {
	return slices.ContainsFunc(tags, func(tag string) bool { return tag == "*" || equal(tag, etag) })
}

// parseTags splits a header's lists of entity tags. It returns nil for no
// header. A malformed tag is kept and equals no ETag.
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

// tagEnd returns the index at which a list's first tag ends. A quoted tag may
// contain commas.
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
