// Package httpurl checks the URLs that operators configure.
package httpurl

import (
	"errors"
	"net/url"
)

// Parse accepts an absolute http or https URL with a host and without
// credentials, because URLs are logged. Its errors never repeat the URL, which may
// contain a password in an unexpected place.
func Parse(raw string) (*url.URL, error) {
	const want = "; expected a URL such as https://host:8082/path"
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return nil, errors.New("empty" + want)
	case err != nil:
		return nil, errors.New("cannot be parsed" + want)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the scheme is neither http nor https" + want)
	case u.User != nil:
		return nil, errors.New("has credentials" + want)
	case u.Hostname() == "":
		return nil, errors.New("has no host" + want)
	}
	return u, nil
}

// ParseBase is Parse for a URL to which paths are appended. It also rejects a query
// and a fragment.
func ParseBase(raw string) (*url.URL, error) {
	u, err := Parse(raw)
	if err == nil && (u.RawQuery != "" || u.ForceQuery || u.Fragment != "") {
		return nil, errors.New("has a query or a fragment; expected a URL such as https://host:8082/path")
	}
	return u, err
}
